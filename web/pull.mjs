// Which segment is asked for next, and what an answer changes. No DOM, no network.

import { AHEAD_SECONDS, LATE_SECONDS } from "./buffer.mjs";
import { hasEnded } from "./session.mjs";

const JOIN_SECONDS = 20; // a stream no older than this is watched from its beginning
const EMPTY_SECONDS = [0.5, 1, 2]; // rests after 204, one after another
const FAULT_SECONDS = [0.5, 1, 2, 4, 8]; // rests after a failed request
const MOST_FAULTS = 8; // in a row
const UNKNOWN = 404;

/**
 * Where a viewer stands: `queue` holds the segments to ask for in turn (an init segment, then the first fragment),
 * the last of them is counted up; empty: it has not joined. `rest` is when it may ask again, in seconds.
 */
export function newPull() {
  return { queue: [], goal: null, empty: 0, faults: 0, rest: 0, given: "" };
}

/** A pull that goes on at a place of the stream; `goal` is where the playhead is then put, in seconds, or null. */
export function joinedAt(place, goal = null) {
  return { ...newPull(), queue: [place.init, place.segment], goal };
}

/** The place a viewer who comes now starts with. A stream that goes on with a take begins in the middle of it. */
export function placeToJoin(state) {
  const { oldest, newest } = state.media;
  const whole = oldest.init === 0 && oldest.segment === 1; // nothing was forgotten
  const young = whole && state.frames - oldest.frame <= JOIN_SECONDS * state.fps;
  return young ? oldest : newest;
}

/**
 * What to do at `now` (seconds). `view` is {at, ahead, seen, following}: playhead and seconds buffered ahead of it,
 * whether anybody can see the picture, and whether the viewer wants the newest.
 */
export function nextStep(pull, view, state, now) {
  if (pull.given) return { do: "give up", why: pull.given };
  if (!state.media) return { do: hasEnded(state) ? "finish" : "wait" };
  if (!view.seen || now < pull.rest) return { do: "wait" };
  if (pull.queue.length === 0) return { do: "join", place: placeToJoin(state), goal: null };
  const { newest, next } = state.media;
  if (isLate(pull, view, state)) return { do: "join", place: newest, goal: secondsOf(newest, state) };
  if (pull.queue[0] >= next && hasEnded(state)) return { do: "finish" };
  if (view.ahead >= AHEAD_SECONDS) return { do: "wait" };
  return { do: "get", number: pull.queue[0] };
}

/** Second of the stream at which a place begins. */
export function secondsOf(place, state) {
  return place.frame / state.fps;
}

/** The pull after an answer `{status, next}` to the first of its queue; status 0: no answer at all. */
export function afterAnswer(pull, answer, state, now) {
  if (answer.status === 200) return { ...pull, queue: advanced(pull.queue, answer.next), empty: 0, faults: 0, rest: 0 };
  if (answer.status === 204) {
    return { ...pull, empty: pull.empty + 1, faults: 0, rest: now + restOf(EMPTY_SECONDS, pull.empty) };
  }
  if (answer.status === UNKNOWN) return { ...pull, given: "unknown" };
  const faults = pull.faults + 1;
  if (faults >= MOST_FAULTS) return { ...pull, faults, given: "unreachable" };
  // a segment that is gone leads back to the newest place, which the next state tells
  const queue = answer.status === 410 ? [] : pull.queue;
  return { ...pull, queue, faults, rest: now + restOf(FAULT_SECONDS, pull.faults) };
}

/** The pull after the goal was reached. */
export function atGoal(pull) {
  return { ...pull, goal: null };
}

/** Only an endless stream is jumped through: of one with an end every picture is wanted. */
function isLate(pull, view, state) {
  const behind = state.frames / state.fps - view.at;
  const ahead = pull.queue.length === 1 && state.media.newest.segment > pull.queue[0];
  return view.following && state.blocks === null && pull.goal === null && ahead && behind > LATE_SECONDS;
}

function advanced(queue, next) {
  return queue.length > 1 ? queue.slice(1) : [next];
}

function restOf(rests, times) {
  return rests[Math.min(times, rests.length - 1)];
}
