import assert from "node:assert/strict";
import { test } from "node:test";

import { aheadOf, nextFrame, oldPart, placeAt } from "../../web/buffer.mjs";
import { clock, clockOfTenths } from "../../web/clock.mjs";

test("the playhead is put where there are pictures", () => {
  assert.equal(placeAt(0, []), null);
  assert.equal(placeAt(0, [[0, 2]]), null);
  assert.equal(placeAt(2, [[0, 2]]), null);
  assert.equal(placeAt(0, [[19, 21]]), 19);
  assert.equal(placeAt(3, [[0, 2], [5, 6], [9, 12]]), 5);
  assert.equal(placeAt(1.9, [[0, 2], [9, 12]]), 9, "a player never quite reaches the end of a range");
  assert.equal(placeAt(1.8, [[0, 2], [9, 12]]), null);
  assert.equal(placeAt(13, [[0, 2], [9, 12]]), null);
});

test("ahead counts what plays without a gap", () => {
  assert.equal(aheadOf(1, [[0, 3], [4, 9]]), 2);
  assert.equal(aheadOf(3.5, [[0, 3], [4, 9]]), 0);
  assert.equal(aheadOf(0, []), 0);
});

test("what was played a minute ago is thrown away, in few large pieces", () => {
  assert.equal(oldPart(30, [[0, 40]]), null);
  assert.equal(oldPart(70, [[0, 90]]), null);
  assert.deepEqual(oldPart(76, [[0, 90]]), [0, 16]);
  assert.equal(oldPart(76, [[5, 90]]), null);
  assert.equal(oldPart(76, []), null);
});

const made = (frames) => ({ frames, fps: 16 });

test("single pictures follow each other, and a late viewer jumps", () => {
  assert.equal(nextFrame(-1, made(0)), null);
  assert.equal(nextFrame(-1, made(9)), 0);
  assert.equal(nextFrame(-1, made(100)), 83);
  assert.equal(nextFrame(8, made(9)), null);
  assert.equal(nextFrame(7, made(9)), 8);
  assert.equal(nextFrame(7, made(900)), 883);
});

test("times read like a clock", () => {
  const told = [[0, "0:00"], [-1, "0:00"], [9.99, "0:09"], [75.24, "1:15"], [3600, "1:00:00"], [86399, "23:59:59"]];
  for (const [seconds, words] of told) assert.equal(clock(seconds), words);
  const tenths = [[0, "0:00.0"], [1.5, "0:01.5"], [1.59, "0:01.5"], [0.3, "0:00.3"], [61.99, "1:01.9"], [-2, "0:00.0"]];
  for (const [seconds, words] of tenths) assert.equal(clockOfTenths(seconds), words);
});
