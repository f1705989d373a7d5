// Shows the stream: from fragments where the browser can join them, else picture by picture.

import { aheadOf, nextFrame, oldPart, placeAt } from "../../web/buffer.mjs";
import { canJoin, feed, once, openBuffer, rangesOf, remove } from "../../web/media.mjs";
import { hasEnded, nextPull } from "./logic.mjs";

const GLANCE_MILLISECONDS = 150;

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Plays until the stream has ended; rejects if this browser cannot join fragments. */
export async function playFragments(video, status) {
  while (!status().live) {
    if (hasEnded(status())) return;
    await sleep(GLANCE_MILLISECONDS);
  }
  const { codec } = status().live;
  if (!canJoin(codec)) throw new Error(`cannot join fragments of ${codec}`);
  await pull(video, await openBuffer(video, codec), status);
}

async function pull(video, buffer, status) {
  const ranges = () => rangesOf(buffer.buffered);
  const view = { part: null, next: 0, ahead: 0, at: 0 };
  for (;;) {
    const place = placeAt(video.currentTime, ranges());
    if (place !== null) video.currentTime = place;
    if (video.paused && video.readyState > 1) video.play().catch(() => {});
    Object.assign(view, { at: video.currentTime, ahead: aheadOf(video.currentTime, ranges()) });
    const action = document.hidden && !hasEnded(status()) ? { do: "wait" } : nextPull(view, status());
    if (action.do === "finish") return playOut(video, ranges);
    if (action.do === "join") await join(buffer, action, view, status().fps);
    else if (action.do !== "pull" || !(await append(buffer, action, view))) await sleep(GLANCE_MILLISECONDS);
    const old = oldPart(video.currentTime, ranges());
    if (old) await remove(buffer, old);
  }
}

async function join(buffer, { part, from }, view, fps) {
  const answer = await fetch(`/init/${part}`);
  if (answer.status !== 200) return sleep(GLANCE_MILLISECONDS);
  // every part counts its time from nought
  buffer.timestampOffset = part / fps;
  await feed(buffer, await answer.arrayBuffer());
  Object.assign(view, { part, next: from });
}

async function append(buffer, { part, from }, view) {
  const answer = await fetch(`/fragments/${part}/${from}`);
  if (answer.status !== 200) return false;
  await feed(buffer, await answer.arrayBuffer());
  view.next = Number(answer.headers.get("X-Next"));
  return true;
}

/** Resolves when the buffer has been shown to its end. */
async function playOut(video, ranges) {
  while (aheadOf(video.currentTime, ranges()) > 0.1 && !video.error) await sleep(GLANCE_MILLISECONDS);
}

/** Draws one picture after another until the stream has ended. */
export async function showPictures(canvas, status, onFrame) {
  const context = canvas.getContext("2d");
  let shown = -1;
  let due = performance.now();
  while (!hasEnded(status()) || nextFrame(shown, status()) !== null) {
    const frame = nextFrame(shown, status());
    const answer = frame === null || document.hidden ? null : await fetch(`/frame/${frame}`);
    if (answer?.status !== 200) {
      await sleep(GLANCE_MILLISECONDS);
      continue;
    }
    const picture = await createImageBitmap(await answer.blob());
    shown = Number(answer.headers.get("X-Frame"));
    Object.assign(canvas, { width: picture.width, height: picture.height });
    context.drawImage(picture, 0, 0);
    picture.close();
    onFrame(shown);
    due = Math.max(due + 1000 / status().fps, performance.now() - 500);
    await sleep(Math.max(0, due - performance.now()));
  }
}

/** Puts the finished file in place of the live one, at the same moment, with the browser's own controls. */
export async function showFinished(video, seconds) {
  video.src = "/video.mp4";
  await once(video, "loadedmetadata", 10_000);
  video.controls = true;
  video.currentTime = Math.min(seconds, video.duration);
  if (seconds < video.duration - 0.1) await video.play().catch(() => {});
}
