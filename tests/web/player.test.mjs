import assert from "node:assert/strict";
import { test } from "node:test";

import { FinishedPlayer } from "../../web/plain.mjs";
import { Player } from "../../web/player.mjs";
import { state } from "./states.mjs";

const FILE = { phase: "ended", media: null, video: true };

/** What a player sees of a stream in this state. */
const viewOf = (more) => ({ state: () => state(more), held: () => false, loops: () => false });

test("a file that was refused is no more to be shown, until it is tried again", () => {
  const player = new Player({}, {}, viewOf(FILE));
  assert.deepEqual([player.showable, player.given], [true, ""]);
  player.keepable = false;
  assert.deepEqual([player.showable, player.given], [false, "fileGone"]);
  player.retry();
  assert.deepEqual([player.showable, player.given], [true, ""]);
});

test("a refused file is no loss while segments are in memory, nor before there is one", () => {
  const player = new Player({}, {}, viewOf({ ...FILE, media: { codec: "avc1" } }));
  player.keepable = false;
  assert.deepEqual([player.showable, player.given], [true, ""]);
  const starting = new Player({}, {}, viewOf({ phase: "starting", media: null, video: false }));
  assert.deepEqual([starting.showable, starting.given], [false, ""]);
});

test("while the finished file is loaded the second stays, and one that is chosen meanwhile is shown", async () => {
  const video = Object.assign(new EventTarget(), { videoWidth: 0, currentTime: 0, duration: 9, paused: false, ended: false, poster: "" });
  const link = { transport: { url: (path) => path }, url: (rest) => rest, sleep: () => Promise.reject(new Error("closed")) };
  const player = new FinishedPlayer(video, link, viewOf(FILE), 4);
  const played = player.play();
  assert.deepEqual([player.seconds, player.over], [4, false]);
  player.seek(2.5);
  assert.deepEqual([player.seconds, video.currentTime], [2.5, 0]);
  video.dispatchEvent(new Event("loadedmetadata"));
  await assert.rejects(played, /closed/);
  assert.deepEqual([player.seconds, video.currentTime], [2.5, 2.5]);
  player.seek(1);
  assert.equal(player.seconds, 1);
});
