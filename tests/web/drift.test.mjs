import assert from "node:assert/strict";
import { test } from "node:test";

import { curvesOf, hasCurves } from "../../web/drift.mjs";

const watch = (more = {}) => ({ frames_per_point: 16, motion: [1, 2, 4], saturation: [0, 0, 0], jump: [], warning: "", ...more });

test("one point is no curve", () => {
  assert.ok(hasCurves(watch()));
  assert.ok(!hasCurves(watch({ motion: [1], saturation: [2] })));
  assert.ok(!hasCurves(null));
  assert.ok(!hasCurves({}));
});

test("points lie over the time of the strip, each curve below the other on its own scale from 0", () => {
  const { motion, saturation, jump } = curvesOf(watch(), 64);
  assert.equal(motion, "0,9.5 12.5,9.5 37.5,7 62.5,2 75,2");
  assert.equal(saturation, "0,26 12.5,26 37.5,26 62.5,26 75,26", "nothing anywhere lies at the bottom of its lane");
  assert.equal(jump, "");
});

test("what is no number is left out, and no point lies outside", () => {
  assert.equal(curvesOf(watch({ motion: [4, null, NaN, 4] }), 32).motion, "0,2 25,2 100,2 100,2");
  assert.deepEqual(curvesOf(null, 0), { motion: "", saturation: "", jump: "" });
});
