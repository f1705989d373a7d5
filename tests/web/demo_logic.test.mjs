import assert from "node:assert/strict";
import { test } from "node:test";

import { acknowledgement, figures, hasEnded, joinAt, nextPull, phaseWords, promptProblem } from "../../pocket/demo/logic.mjs";

const FPS = 16;
const running = (more = {}) => ({
  phase: "running", sentence: "", block: 3, blocks: null, frames: 33, fps: FPS, made_per_second: 24, pending: null,
  applied: [{ number: 0, prompt: "a red circle", block: 0, first_frame: 0 }],
  live: { part: 0, codec: "avc1.64000a", fragments: 32, oldest: 0, keyframe: 16 }, video: false, ...more,
});
const view = (more = {}) => ({ part: 0, next: 30, ahead: 1, at: 1, ...more });

test("a viewer of a young stream starts at its beginning, a late one at the newest key frame", () => {
  assert.equal(joinAt({ oldest: 0, fragments: 320, keyframe: 304 }, FPS), 0);
  assert.equal(joinAt({ oldest: 0, fragments: 321, keyframe: 304 }, FPS), 304);
  assert.equal(joinAt({ oldest: 10, fragments: 20, keyframe: null }, FPS), 10);
});

test("the player joins, pulls and waits", () => {
  assert.deepEqual(nextPull(view({ part: null }), running({ live: null })), { do: "wait" });
  assert.deepEqual(nextPull(view({ part: null }), running()), { do: "join", part: 0, from: 0 });
  assert.deepEqual(nextPull(view(), running()), { do: "pull", part: 0, from: 30 });
  assert.deepEqual(nextPull(view({ ahead: 20.5 }), running()), { do: "wait" });
});

test("a new part is joined at its beginning", () => {
  const live = { part: 90, codec: "", fragments: 700, oldest: 0, keyframe: 688 };
  assert.deepEqual(nextPull(view(), running({ live })), { do: "join", part: 90, from: 0 });
});

test("fragments that are forgotten are jumped over", () => {
  const live = { part: 0, codec: "", fragments: 5000, oldest: 904, keyframe: 4992 };
  assert.deepEqual(nextPull(view({ next: 903 }), running({ live, blocks: 900 })), { do: "join", part: 0, from: 4992 });
  assert.deepEqual(nextPull(view({ next: 904 }), running({ live, blocks: 900 })), { do: "pull", part: 0, from: 904 });
});

test("only a viewer of an endless stream jumps to its newest pictures when late", () => {
  const live = { part: 0, codec: "", fragments: 320, oldest: 0, keyframe: 304 };
  const late = view({ at: 7, next: 120 });
  assert.deepEqual(nextPull(late, running({ live, frames: 321 })), { do: "join", part: 0, from: 304 });
  assert.deepEqual(nextPull(late, running({ live, frames: 321, blocks: 40 })), { do: "pull", part: 0, from: 120 });
  assert.deepEqual(nextPull(view({ at: 9, next: 120 }), running({ live, frames: 321 })).do, "pull");
  assert.deepEqual(nextPull(view({ at: 7, next: 304 }), running({ live, frames: 321 })).do, "pull");
});

test("the end ends the pulling, however it came", () => {
  for (const phase of ["ended", "failed"]) {
    assert.ok(hasEnded({ phase }));
    assert.deepEqual(nextPull(view(), running({ phase })), { do: "finish" });
  }
  for (const phase of ["running", "paused"]) assert.ok(!hasEnded({ phase }));
});

test("the figures name block, length and speed", () => {
  assert.deepEqual(figures(running()), [
    ["Block", "3"], ["Made", "0:02"], ["Frames/s made", "24.0"], ["Of play speed", "1.5×"],
  ]);
  assert.equal(figures(running({ blocks: 14 }))[0][1], "3 of 14");
  assert.equal(figures(running({ frames: 0, made_per_second: 0 }))[3][1], "–");
});

test("the phase is told in words", () => {
  assert.equal(phaseWords(running()), "Live");
  assert.equal(phaseWords(running({ frames: 0 })), "Making the first block");
  assert.equal(phaseWords(running({ phase: "paused" })), "Paused");
  assert.equal(phaseWords(running({ phase: "ended" })), "Finished");
});

test("an empty or endless prompt is not sent", () => {
  assert.equal(promptProblem("a red circle"), "");
  assert.match(promptProblem("  "), /Type what/);
  assert.match(promptProblem("x".repeat(501)), /501 letters; at most 500/);
});

test("a prompt is followed from waiting to its block", () => {
  const pending = { number: 2, prompt: "b" };
  const applied = [...running().applied, { number: 2, prompt: "b", block: 14, first_frame: 165 }];
  assert.equal(acknowledgement(2, running({ pending })), "Waits for the next block.");
  assert.equal(acknowledgement(2, running({ applied })), "Shown from block 14 (0:10) on.");
  assert.equal(acknowledgement(1, running({ pending })), "A later prompt took its place.");
  assert.equal(acknowledgement(1, running({ applied })), "A later prompt took its place.");
  assert.equal(acknowledgement(2, running({ pending, phase: "ended" })), "The stream ended before this prompt.");
  assert.equal(acknowledgement(3, running()), "");
});
