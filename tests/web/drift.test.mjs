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

test("points lie over the time of the strip, each curve on its own scale from 0", () => {
  const { motion, saturation, jump } = curvesOf(watch(), 64);
  assert.equal(motion, "12.5,17.25 37.5,12 62.5,1.5");
  assert.equal(saturation, "12.5,22.5 37.5,22.5 62.5,22.5", "nothing anywhere lies at the bottom");
  assert.equal(jump, "");
});

test("what is no number is left out, and no point lies outside", () => {
  assert.equal(curvesOf(watch({ motion: [4, null, NaN, 4] }), 32).motion, "25,1.5 100,1.5");
  assert.deepEqual(curvesOf(null, 0), { motion: "", saturation: "", jump: "" });
});
