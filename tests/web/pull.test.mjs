import assert from "node:assert/strict";
import { test } from "node:test";

import { afterAnswer, atGoal, joinedAt, newPull, nextStep, placeToJoin } from "../../web/pull.mjs";
import { FPS, media, place, state } from "./states.mjs";

const view = (more = {}) => ({ at: 1, ahead: 1, seen: true, following: true, ...more });
const pulling = (number) => ({ ...newPull(), queue: [number] });

/** Answers every request of a pull with `statuses` in turn, at the moment each may be asked. */
function through(pull, statuses, told = state()) {
  const rests = [];
  let now = 0;
  for (const status of statuses) {
    pull = afterAnswer(pull, { status, next: pull.queue.at(-1) + 1 }, told, now);
    rests.push(Math.max(0, pull.rest - now));
    now = Math.max(now, pull.rest);
  }
  return { pull, rests };
}

test("a viewer of a young stream starts at its beginning, a late one at the newest key frame", () => {
  assert.deepEqual(placeToJoin(state({ frames: 20 * FPS })), place(0));
  assert.deepEqual(placeToJoin(state({ frames: 20 * FPS + 1 })), place(32));
  assert.deepEqual(placeToJoin(state({ media: media({ oldest: place(16) }) })), place(32));
  const middle = { init: 0, segment: 1, frame: 960 };
  const goesOn = (frames) => state({ frames, media: media({ oldest: middle }) });
  assert.deepEqual(placeToJoin(goesOn(960 + 20 * FPS)), middle, "it goes on in the middle of its take");
  assert.deepEqual(placeToJoin(goesOn(961 + 20 * FPS)), place(32));
});

test("joining takes the init segment, then the key frame, then counts up by what the server says", () => {
  const init = joinedAt({ init: 40, segment: 57, frame: 55 });
  assert.deepEqual(nextStep(init, view(), state({ media: media({ next: 99 }) }), 0), { do: "get", number: 40 });
  const first = afterAnswer(init, { status: 200, next: 41 }, state(), 0);
  assert.deepEqual(first.queue, [57]);
  assert.deepEqual(afterAnswer(first, { status: 200, next: 80 }, state(), 0).queue, [80]);
});

test("it waits while nothing is there, nobody looks, or enough is buffered", () => {
  assert.equal(nextStep(newPull(), view(), state({ media: null }), 0).do, "wait");
  assert.equal(nextStep(newPull(), view(), state(), 0).do, "join");
  assert.equal(nextStep(pulling(9), view({ seen: false }), state(), 0).do, "wait");
  assert.equal(nextStep(pulling(9), view({ ahead: 20 }), state(), 0).do, "wait");
  assert.deepEqual(nextStep(pulling(9), view({ ahead: 19.9 }), state(), 0), { do: "get", number: 9 });
});

test("a caught-up viewer asks on, because events can stay away", () => {
  assert.deepEqual(nextStep(pulling(34), view(), state(), 0), { do: "get", number: 34 });
});

test("204 rests half a second, then longer, at most two, and is no fault", () => {
  const { pull, rests } = through(pulling(34), Array(12).fill(204));
  assert.deepEqual(rests.slice(0, 4), [0.5, 1, 2, 2]);
  assert.equal(pull.given, "");
  assert.equal(nextStep({ ...pull, rest: 5 }, view(), state(), 4.9).do, "wait");
  assert.equal(nextStep({ ...pull, rest: 5 }, view(), state(), 5).do, "get");
  assert.equal(through(pulling(34), [204, 200, 204]).rests[2], 0.5);
});

test("faults rest longer and longer, and eight in a row give up", () => {
  const { pull, rests } = through(pulling(3), [0, 500, 0, 0, 503, 0, 0]);
  assert.deepEqual(rests, [0.5, 1, 2, 4, 8, 8, 8]);
  assert.deepEqual(pull.queue, [3]);
  const given = through(pull, [0]).pull;
  assert.deepEqual(nextStep(given, view(), state(), 99), { do: "give up", why: "unreachable" });
  assert.equal(through(pull, [200, 0, 0]).pull.given, "");
});

test("410 leads back to the newest key frame, and not in a hurry", () => {
  const { pull, rests } = through(pulling(3), [410]);
  assert.equal(rests[0], 0.5);
  assert.deepEqual(nextStep(pull, view(), state({ frames: 999 }), 1), { do: "join", place: place(32), goal: null });
  assert.equal(through(pulling(3), Array(8).fill(410)).pull.given, "unreachable");
});

test("404 gives up at once", () => {
  const { pull } = through(pulling(3), [404]);
  assert.deepEqual(nextStep(pull, view(), state(), 99), { do: "give up", why: "unknown" });
});

test("the end is pulled to its last segment, however it came", () => {
  for (const phase of ["ended", "failed"]) {
    assert.deepEqual(nextStep(pulling(33), view(), state({ phase }), 0), { do: "get", number: 33 });
    assert.deepEqual(nextStep(pulling(34), view(), state({ phase }), 0), { do: "finish" });
    assert.deepEqual(nextStep(newPull(), view(), state({ phase, media: null }), 0), { do: "finish" });
  }
});

test("only who follows an endless stream jumps when late", () => {
  const late = state({ blocks: null, frames: 320, media: media({ next: 321, newest: place(304) }) });
  const jump = { do: "join", place: place(304), goal: 19 };
  assert.deepEqual(nextStep(pulling(120), view({ at: 7 }), late, 0), jump);
  assert.equal(nextStep(pulling(120), view({ at: 8.1 }), late, 0).do, "get");
  assert.equal(nextStep(pulling(120), view({ at: 7, following: false }), late, 0).do, "get");
  assert.equal(nextStep(pulling(120), view({ at: 7 }), { ...late, blocks: 40 }, 0).do, "get");
  assert.equal(nextStep(pulling(305), view({ at: 7 }), late, 0).do, "get");
  const jumping = joinedAt(place(304), 19);
  assert.equal(nextStep(jumping, view({ at: 7 }), late, 0).do, "get");
  assert.equal(nextStep(atGoal(pulling(120)), view({ at: 7 }), late, 0).do, "join");
});
