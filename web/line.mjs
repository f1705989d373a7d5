// The numbers and sentences about a stream, as texts. No DOM.

import { clock, clockOfTenths } from "./clock.mjs";
import { lettersOf, newestFailure, newestPrompt, othersPending } from "./controls.mjs";
import { hasEnded } from "./session.mjs";
import { secondsMade } from "./timeline.mjs";

const GIB = 2 ** 30;
const BRIEF = 80; // letters
const SHORT_SECONDS = 10; // a span shorter than this is told with tenths

/**
 * The state line: block, length, speed against real time, what is left, VRAM and seconds buffered, each where it is
 * known. `times` is what timesOf gives.
 */
export function stateLine(state, buffered, say, times = "") {
  const { block, blocks, frames, fps, made_per_second: speed, vram } = state;
  const parts = [blocks === null ? say("block", { block }) : say("blockOf", { block, blocks })];
  parts.push(say("made", { time: clock(secondsMade(state)) }));
  if (frames > 0 && speed > 0) parts.push(say("speed", { speed: twoDigits(speed / fps) }));
  if (times) parts.push(times);
  if (vram) parts.push(say("vram", { used: (vram.used / GIB).toFixed(1), total: round(vram.total / GIB) }));
  if (buffered !== null) parts.push(say("buffered", { seconds: Math.floor(buffered) }));
  return parts;
}

/**
 * How long a run will still take, and at what time of day it is done; of one without end, how long it ran; or nothing.
 * `now`: seconds since 1970 by the server's clock. `told`: when the state was told.
 */
export function timesOf(state, now, told, language, say) {
  const { phase, blocks, begun, left_seconds: left } = state;
  if (hasEnded(state)) return "";
  if (blocks === null) return say("runningFor", { time: clock(now - begun) });
  if (typeof left !== "number" || state.frames === 0) return "";
  // a pause moves the end, so it is not told then
  if (phase === "paused") return say("left", { time: clock(left) });
  const still = Math.max(0, left - (now - told));
  return say("leftUntil", { time: clock(still), at: timeOfDay(told + left, now, language) });
}

/** Seconds since 1970 as "15:32", on another day with its name. */
function timeOfDay(seconds, now, language) {
  const [then, today] = [new Date(1000 * seconds), new Date(1000 * now)];
  const day = then.toDateString() === today.toDateString() ? {} : { weekday: "short" };
  const shape = { hour: "2-digit", minute: "2-digit", ...day };
  try {
    return then.toLocaleString(language, shape);
  } catch {
    return then.toLocaleString(undefined, shape);
  }
}

/** What whoever watches should know, apart from the warning of the drift, which has a place of its own. */
export function noticeOf(state) {
  return state.notice === (state.watch?.warning ?? "") ? "" : state.notice ?? "";
}

/** What is going on, or why it is over, in a few words. */
export function phaseWords(state, say) {
  const { phase, frames, take } = state;
  const name = phase === "ended" ? endOf(state) : phase;
  if (state.forgotten) return say("cutOffAt", { time: clock(secondsMade(state)) });
  if (name === "ended" || name === "failed") return say(name);
  if (phase === "starting" && frames > 0) return say("startingAgain");
  if (phase !== "ended") return say(phase === "running" && frames === 0 ? "starting" : phase);
  const words = say(name, { time: clock(secondsMade(state)) });
  return take && name !== "endedForOthers" ? say("canResume", { words }) : words;
}

/** How far a redo from a frame is; those before it that no snapshot holds are made first. Null: none was asked for. */
export function redoWords(frame, { frames, fps }, say) {
  return frame === null ? "" : say(frames > frame ? "redoDone" : "redoNears", { time: clockOfTenths(frame / fps) });
}

/** Why a stream ended, as the name of a text. */
function endOf({ goes_on: goesOn, stopped_by: by, sentence }) {
  if (goesOn) return "endedForOthers";
  const named = { viewer: "stoppedByYou", drift: "stoppedByDrift", disk: "stoppedByDisk" }[by];
  return named ?? (sentence ? "interrupted" : "ended");
}

/** What is on its way, of a run that was queued and has not begun, in a few words; or an empty text. */
export function nextWords(next, say) {
  if (!next) return "";
  if (next.standing === "waiting") return say(next.ahead ? "nextWaiting" : "nextQueued", next);
  return say(next.here ? "nextLoading" : next.title ? "nextReady" : "nextStarts", next);
}

/** Begin and end of a span; with tenths of a second where whole ones tell too little. */
export function timesOfSpan({ from, to }) {
  const told = to - from < SHORT_SECONDS ? clockOfTenths : clock;
  return { from: told(from), to: told(to) };
}

/** What became of the prompt typed last, or what waits that others typed: {text, wrong}. */
export function promptWords(book, state, say) {
  const own = newestPrompt(book);
  const other = othersPending(book, state).at(-1);
  if (other && own?.standing !== "waiting") return { text: say("otherPending", { prompt: brief(other.prompt) }), wrong: false };
  return own ? standingWords(own, state, say) : { text: "", wrong: false };
}

/** Why the last pause, resume or stop did not happen, or an empty text; after the end nobody needs to know. */
export function failureWords(book, state, say) {
  const failed = newestFailure(book);
  if (!failed || hasEnded(state)) return "";
  return failed.standing === "lost" ? say("lost") : failed.sentence;
}

/** The sentence for a prompt that cannot be sent; `problem` is its name. */
export function problemWords(problem, text, state, say) {
  return say(problem, { letters: lettersOf(text), most: state.longest_prompt });
}

/** The beginning of a prompt, for a sentence about it. */
function brief(prompt) {
  const letters = [...prompt];
  return letters.length > BRIEF ? `${letters.slice(0, BRIEF - 1).join("")}…` : prompt;
}

function standingWords({ message, standing, sentence, frame }, state, say) {
  const prompt = brief(message.prompt);
  if (standing === "refused") return { text: sentence, wrong: true };
  if (standing === "lost") return { text: say("lost"), wrong: true };
  if (standing === "done") return { text: say("promptDone", { prompt, time: clock(frame / state.fps) }), wrong: false };
  const name = { sending: "Sending", waiting: "Waiting", replaced: "Replaced", ended: "Ended" }[standing];
  return { text: say(`prompt${name}`, { prompt }), wrong: standing === "ended" };
}

/** 0.843 -> "0.84", 1.26 -> "1.3", 12.6 -> "13": what a glance can use. */
function twoDigits(value) {
  return value >= 10 ? String(Math.round(value)) : value.toFixed(value < 1 ? 2 : 1);
}

function round(value) {
  return String(Math.round(value * 10) / 10);
}
