import assert from "node:assert/strict";
import { test } from "node:test";

import { afterTrouble, firstWay } from "../../web/fallback.mjs";

const all = { segments: true, file: true };
const fall = (troubles, able = all) => troubles.reduce((choice, each) => afterTrouble(choice, each, able), firstWay(able));

test("the first way is the best one this browser can do", () => {
  assert.equal(firstWay(all).way, "segments");
  assert.equal(firstWay({ segments: false, file: true }).way, "file");
  assert.equal(firstWay({ segments: false, file: false }).way, "pictures");
});

test("a blocked Media Source leads to the file at once, a silent file to pictures", () => {
  assert.equal(fall(["blocked"]).way, "file");
  assert.equal(fall(["blocked"]).why, "blocked");
  assert.equal(fall(["blocked", "silent"]).way, "pictures");
  assert.equal(fall(["blocked", "media"]).way, "pictures");
});

test("one media error among segments is tried again, two are not", () => {
  assert.deepEqual(fall(["media"]), { way: "segments", errors: 1, why: "" });
  assert.equal(fall(["media", "media"]).way, "file");
});

test("a way that cannot be is left out, and pictures are the last", () => {
  assert.equal(fall(["blocked"], { segments: true, file: false }).way, "pictures");
  assert.equal(fall(["blocked", "silent", "media"]).way, "pictures");
});
