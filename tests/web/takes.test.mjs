import assert from "node:assert/strict";
import { test } from "node:test";

import { ageOf, dismissing, folded, isOf, keyOf, ordered, rowOf, takeToOffer } from "../../web/takes.mjs";
import { speaker } from "../../web/words.mjs";
import { take } from "./states.mjs";

const say = speaker("en");
const PREFIX = "rivulet/stream";
const cut = (more = {}) => take({ standing: "cut off", ...more });

test("a row tells name, length, size, age and standing", () => {
  const row = rowOf(take(), 1000 + 3 * 60, say, "en");
  assert.deepEqual([row.folder, row.file, row.standingWords], ["rivulet/", "stream_00001_.mp4", "stopped"]);
  assert.deepEqual(row.facts, ["1:02", "3 min. ago", "832 × 480"]);
  assert.equal(row.able, true);
  assert.equal(row.deletable, false, "an older server says nothing of it");
  assert.equal(rowOf(take({ deletable: true }), 1000, say, "en").deletable, true);
});

test("what is not known of a broken take is left out, and its reason is told", () => {
  const broken = take({ width: 0, height: 0, standing: "broken", reason: "Its video was deleted.", recoverable: false });
  const row = rowOf(broken, 1000, say, "en");
  assert.deepEqual(row.facts, ["1:02", "now"]);
  assert.deepEqual([row.able, row.reason], [false, "Its video was deleted."]);
  assert.equal(rowOf(take({ standing: "unheard" }), 1000, say, "en").standingWords, "unheard");
});

test("ages are told in the language's own words, and a clock that was put back says now", () => {
  const age = (seconds, language = "en") => ageOf(1000, 1000 + seconds, language);
  assert.deepEqual([0, 59, 60, 7200, 86400, 3 * 86400, 15 * 86400].map((each) => age(each)), [
    "now", "now", "1 min. ago", "2 hr. ago", "yesterday", "3 days ago", "2 wk. ago",
  ]);
  assert.equal(age(-500), "now");
  assert.match(age(120, "zh"), /2\s?分钟前/);
  assert.equal(age(120, "no language"), "2 min. ago");
});

test("the newest take comes first", () => {
  const names = (takes) => takes.map((each) => each.name);
  assert.deepEqual(names(ordered([take({ name: "a", changed: 1 }), take({ name: "b", changed: 2 })])), ["b", "a"]);
});

test("a node's own videos are those under its prefix", () => {
  assert.ok(isOf("rivulet/stream_00001_.mp4", PREFIX));
  assert.ok(!isOf("rivulet/stream_two_00001_.mp4", PREFIX));
  assert.ok(!isOf("other/rivulet/stream_00001_.mp4", PREFIX));
  assert.ok(!isOf("rivulet/stream_00001__tail1.mp4", PREFIX), "the old end of a redo");
  assert.ok(isOf("day 2026-11-30/a.b_00012_.mp4", "day %date:yyyy-MM-dd%/a.b"));
  assert.ok(!isOf("day 2026/axb_00012_.mp4", "day %date%/a.b"));
  assert.ok(!isOf("rivulet/stream_00001_.mp4", null));
});

test("offered is the newest take of the node, and only where it was cut off", () => {
  const before = cut({ name: "rivulet/stream_00001_.mp4", changed: 5 });
  const last = take({ name: "rivulet/stream_00002_.mp4", id: "u", changed: 9 });
  const strange = cut({ name: "else/clip_00003_.mp4", changed: 20 });
  assert.equal(takeToOffer([before, strange], PREFIX, []), before);
  assert.equal(takeToOffer([before, last], PREFIX, []), null, "a later one ended in order");
  assert.equal(takeToOffer([strange], PREFIX, []), null);
  assert.equal(takeToOffer([], PREFIX, []), null);
  assert.equal(takeToOffer([cut({ recoverable: false })], PREFIX, []), null);
  assert.equal(takeToOffer([before, last], PREFIX, [], "u"), last, "an error has just ended it");
});

test("a take that was waved away stays away until it is cut off anew", () => {
  const dismissed = dismissing([], cut());
  assert.equal(takeToOffer([cut()], PREFIX, dismissed), null);
  assert.ok(takeToOffer([cut({ frames: 1200 })], PREFIX, dismissed));
  assert.deepEqual(dismissing(dismissed, cut()), dismissed, "once is enough");
  const many = Array.from({ length: 60 }, (_, i) => cut({ name: `a_${i}_.mp4` })).reduce(dismissing, []);
  assert.equal(many.length, 50);
  assert.equal(many.at(-1), keyOf(cut({ name: "a_59_.mp4" })));
});

test("a path is a folder and a file", () => {
  assert.deepEqual(folded("a/b/c.mp4"), { folder: "a/b/", file: "c.mp4" });
  assert.deepEqual(folded("c.mp4"), { folder: "", file: "c.mp4" });
});
