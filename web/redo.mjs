// Going back to a second of a take and making it again from there. No DOM, no network.

import { isUnderWay, promptProblem } from "./controls.mjs";
import { hasEnded } from "./session.mjs";
import { frameAt } from "./timeline.mjs";

export const SEEDS = ["same", "new", "number"];
const MOST_SEED = 2n ** 64n - 1n;

/** Whether the stream can be made again from a second: "now" while it runs, "later" through the queue, or "". */
export function wayBack(state, queues) {
  if (!hasEnded(state)) return state.can_redo ? "now" : "";
  return state.take && queues && state.frames > 0 ? "later" : "";
}

/** Why what was typed cannot be sent, as the name of a sentence, or an empty text. `was`: the prompt of that second. */
export function redoProblem({ prompt, seed, number }, was, state) {
  const changed = prompt.trim() !== was;
  if (state.modes.length && changed && promptProblem(prompt, state)) return promptProblem(prompt, state);
  return seed === "number" && seedOf(number) === null ? "redoSeedWrong" : "";
}

/**
 * What to make again: {frame, prompt?, mode?, seed?}. A prompt as it was is left out, so that the prompts that came
 * later stay too; so is a seed as it was.
 */
export function redoOf({ prompt, mode, seed, number }, was, seconds, state) {
  const told = { frame: frameAt(seconds, state) };
  if (state.modes.length && prompt.trim() !== was) Object.assign(told, { prompt: prompt.trim(), mode });
  if (seed === "new") told.seed = newSeed();
  if (seed === "number") told.seed = seedOf(number);
  return told;
}

/** Whether a redo of this widget is on its way. */
export function isGoingBack(book) {
  return isUnderWay(book, "redo");
}

/** The whole number that was typed, as a text: numbers here are not exact so far up. Null where it is none. */
export function seedOf(text) {
  const typed = text.trim();
  return /^\d{1,20}$/.test(typed) && BigInt(typed) <= MOST_SEED ? String(BigInt(typed)) : null;
}

function newSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}
