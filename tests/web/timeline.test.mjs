import assert from "node:assert/strict";
import { test } from "node:test";

import { frameAt, promptAt, secondAt, spansOf } from "../../web/timeline.mjs";
import { FPS, media, place, state } from "./states.mjs";

const prompts = (...frames) => frames.map((frame, i) => ({ prompt: `p${i}`, mode: "cut", block: i, first_frame: frame }));

test("prompts cover everything made so far, each to the next", () => {
  const spans = spansOf(state({ frames: 64, prompts: prompts(0, 16, 48) }));
  assert.deepEqual(spans.map(({ from, to, left, width }) => [from, to, left, width]), [
    [0, 1, 0, 25], [1, 3, 25, 50], [3, 4, 75, 25],
  ]);
});

test("a prompt without a picture has no span, and before the first picture there is none", () => {
  assert.deepEqual(spansOf(state({ frames: 16, prompts: prompts(0, 16) })).map((span) => span.prompt), ["p0"]);
  assert.deepEqual(spansOf(state({ frames: 0 })), []);
  assert.deepEqual(spansOf(state({ prompts: undefined })), []);
});

test("where early prompts were forgotten the strip begins later", () => {
  assert.equal(spansOf(state({ frames: 64, prompts: prompts(32, 48) }))[0].left, 50);
});

test("a point of the strip is a second, within what can still be had", () => {
  const long = state({ frames: 160, media: media({ oldest: place(32) }) });
  assert.equal(secondAt(100, 200, long), 5);
  assert.equal(secondAt(0, 200, long), 2);
  assert.equal(secondAt(250, 200, long), 10);
  assert.equal(secondAt(-9, 200, state({ frames: 160 })), 0);
  assert.equal(secondAt(5, 0, state({ frames: 160 })), 0);
});

test("a second shows one frame, and never one that is not made", () => {
  assert.equal(frameAt(1, state()), 16);
  assert.equal(frameAt(0.99, state()), 15);
  assert.equal(frameAt(21 / FPS, state()), 21);
  assert.equal(frameAt(99, state()), 32);
  assert.equal(frameAt(0, state({ frames: 0 })), 0);
  assert.equal(frameAt(1.333333, state({ fps: 15, frames: 40 })), 20, "as a player rounds 20 / 15");
});

test("the caption is the prompt of the picture that is seen", () => {
  const two = [{ prompt: "a red circle", first_frame: 0 }, { prompt: "a blue square", first_frame: 21 }];
  assert.equal(promptAt(0, two, FPS), "a red circle");
  assert.equal(promptAt(1.3, two, FPS), "a red circle");
  assert.equal(promptAt(21 / FPS, two, FPS), "a blue square");
  assert.equal(promptAt(1, two.slice(1), FPS), "a blue square");
  assert.equal(promptAt(1, [], FPS), "");
});
