// Takes as the server lists them, put into words, and the one of them that was cut off. No DOM, no network.

import { clock } from "./clock.mjs";

const STANDINGS = { running: "takeRunning", whole: "takeWhole", stopped: "takeStopped", "cut off": "takeCutOff", broken: "takeBroken" };
const AGES = [["second", 60], ["minute", 60], ["hour", 24], ["day", 7], ["week", 4.35], ["month", 12], ["year", Infinity]];
const DISMISSED = 50; // remembered, the newest
const NUMBERED = "_\\d+_\\.mp4$"; // what Stream Video puts behind the prefix; the old end of a redo has more

/** One row of the list: what a person wants to know of a take, each where it is known. `now` in seconds since 1970. */
export function rowOf(take, now, say, language) {
  const { name, seconds, width, height, standing, reason, prompt, recoverable, deletable } = take;
  const facts = [clock(seconds), ageOf(take.changed, now, language)];
  if (width && height) facts.push(`${width} × ${height}`);
  return {
    ...folded(name), name, id: take.id, facts, standing, standingWords: standingWords(standing, say), reason: reason ?? "",
    prompt: prompt ?? "", able: recoverable === true, deletable: deletable === true,
  };
}

/** Takes in the order they are shown in: the newest first. */
export function ordered(takes) {
  return [...takes].sort((a, b) => b.changed - a.changed);
}

/** Seconds since 1970 as a person says it: "5 min. ago"; a clock that was put back says "now". */
export function ageOf(changed, now, language) {
  let value = now - changed;
  for (const [unit, most] of AGES) {
    if (value < most) return formatOf(language).format(unit === "second" ? 0 : -Math.floor(value), unit);
    value /= most;
  }
}

/** {file, folder} of a path such as "rivulet/stream_00001_.mp4". */
export function folded(name) {
  const at = name.lastIndexOf("/");
  return { file: name.slice(at + 1), folder: name.slice(0, at + 1) };
}

/**
 * The take to offer to a node that writes under `prefix`: its newest one, where that was cut off, or is the one with the
 * id `failed`, can be gone on with and was not waved away; or null.
 */
export function takeToOffer(takes, prefix, dismissed, failed = "") {
  const mine = ordered(takes).find((take) => take.id === failed || isOf(take.name, prefix));
  if (!mine?.recoverable || (mine.standing !== "cut off" && mine.id !== failed)) return null;
  return dismissed.includes(keyOf(mine)) ? null : mine;
}

/** What a dismissal is remembered by: a take that is gone on with and cut off again is another one. */
export function keyOf(take) {
  return `${take.name} ${take.frames}`;
}

/** The dismissals with one more. */
export function dismissing(dismissed, take) {
  return [...dismissed.filter((each) => each !== keyOf(take)), keyOf(take)].slice(-DISMISSED);
}

/** Whether a video was written under a prefix; %date% and the like match whatever stands there. */
export function isOf(name, prefix) {
  if (prefix === null) return false;
  const parts = String(prefix).split(/%[^%/]*%/).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join("[^/]*")}${NUMBERED}`).test(name);
}

function standingWords(standing, say) {
  return STANDINGS[standing] ? say(STANDINGS[standing]) : standing;
}

function formatOf(language) {
  try {
    return new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });
  } catch {
    return new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
  }
}
