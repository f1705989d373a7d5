import assert from "node:assert/strict";
import { test } from "node:test";

import { copyText } from "../../web/clipboard.mjs";
import { fileUrl } from "../../web/link.mjs";
import { keyOf, Playback } from "../../web/playback.mjs";
import { labelOf, shortPath } from "../../web/player_view.mjs";
import { media, place, state } from "./states.mjs";

/** A Playback of a stream of 10 s, and what it asked of its player. */
function playback({ more = {}, player = {} } = {}) {
  const asked = [];
  const widget = {
    state: state({ frames: 160, ...more }), show: () => {},
    player: { over: false, finished: false, target: 5, seek: (seconds) => asked.push(seconds), ...player },
  };
  return { playback: new Playback(widget), asked };
}

test("keys are names of what a viewer does, and none with a modifier", () => {
  const keys = [" ", "ArrowLeft", "ArrowRight", "Home", "End", "f", "F", "l"];
  assert.deepEqual(keys.map((key) => keyOf({ key })), ["turn", "back", "on", "again", "newest", "full", "full", "repeat"]);
  for (const act of ["turn", "back", "on", "again", "newest", "full", "repeat"]) assert.equal(typeof Playback.prototype[act], "function");
  assert.equal(keyOf({ key: "f", ctrlKey: true }), "");
  assert.equal(keyOf({ key: "q" }), "");
});

test("a step is a second, from where the picture is going to be, within what there is", () => {
  const { playback: one, asked } = playback();
  one.back();
  one.on();
  assert.deepEqual(asked, [4, 6]);
  const early = playback({ more: { media: media({ oldest: place(72) }) } });
  early.playback.back();
  assert.deepEqual(early.asked, [4.5], "what the server has forgotten is not asked for");
  const late = playback({ player: { target: 9.8 } });
  late.playback.on();
  assert.deepEqual(late.asked, [10]);
  assert.equal(late.playback.following, true);
});

test("a step from the end holds the picture there, and the end of a video follows nothing", () => {
  const { playback: one, asked } = playback({ player: { over: true, finished: true, target: 10 } });
  one.back();
  assert.deepEqual([asked, one.held], [[9], true]);
  one.newest();
  assert.deepEqual(asked, [9, 10]);
});

test("from the beginning plays it, also in a loop that is chosen at the end", () => {
  const { playback: one, asked } = playback({ player: { over: true, finished: true } });
  one.held = true;
  one.again();
  assert.deepEqual([asked, one.held], [[0], false]);
  one.repeat();
  assert.deepEqual([asked, one.loops], [[0, 0], true]);
  one.repeat();
  assert.deepEqual([asked, one.loops], [[0, 0], false]);
});

test("the button plays again at the end, and holds before it", () => {
  const { playback: over, asked } = playback({ player: { over: true, finished: true } });
  over.turn();
  assert.deepEqual([asked, over.held], [[0], false]);
  const { playback: amid } = playback();
  amid.turn();
  assert.deepEqual([amid.held, amid.following], [true, false]);
});

test("a span shows what can be read in it", () => {
  assert.equal(labelOf("a red circle\nthat moves", 3, 64), "a red circle");
  assert.equal(labelOf("a red circle", 3, 63), "3");
  assert.equal(labelOf("a red circle", 3, 15), "");
  assert.equal(labelOf("a red circle", 13, 21), "");
  assert.equal(labelOf("a red circle", 13, 22), "13");
});

test("a path is told by its end, in either way to write it", () => {
  assert.equal(shortPath("/home/me/ComfyUI/output/rivulet/take_1.mp4"), "…/rivulet/take_1.mp4");
  assert.equal(shortPath("C:\\ComfyUI\\output\\rivulet\\take_1.mp4"), "…\\rivulet\\take_1.mp4");
  assert.equal(shortPath("rivulet/take_1.mp4"), "rivulet/take_1.mp4");
  assert.equal(shortPath("take_1.mp4"), "take_1.mp4");
});

test("the finished file is the host's own, else the stream's", () => {
  const link = { url: (rest) => `/rivulet/stream/a${rest}`, transport: { url: (path) => `/api${path}` } };
  const view = { filename: "t 1.mp4", subfolder: "a&b", type: "output" };
  assert.equal(fileUrl(link, { session: "a", view }), "/api/view?filename=t+1.mp4&subfolder=a%26b&type=output&take=a");
  assert.equal(fileUrl(link, { session: "a", view: null }), "/rivulet/stream/a/video");
  assert.equal(fileUrl(link, { session: "a" }), "/rivulet/stream/a/video");
});

test("a text is copied the old way where the page may not, and it is told when neither works", async () => {
  const copied = [];
  const field = { style: {}, select: () => {}, remove: () => {} };
  const document = {
    activeElement: null, body: { append: () => {} }, createElement: () => field,
    execCommand: () => copied.push(field.value) > 0,
  };
  assert.equal(await copyText("/a", { navigator: { clipboard: { writeText: async (text) => copied.push(text) } }, document }), true);
  assert.equal(await copyText("/b", { navigator: {}, document }), true, "a page without a secure connection has no clipboard");
  const refused = { navigator: { clipboard: { writeText: () => Promise.reject(new Error("no")) } } };
  assert.equal(await copyText("/c", { ...refused, document: { ...document, execCommand: () => false } }), false);
  assert.deepEqual(copied, ["/a", "/b"]);
});
