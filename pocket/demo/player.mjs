// Shows the stream: from fragments where the browser can join them, else picture by picture.

import { aheadOf, hasEnded, nextFrame, nextPull, oldPart, placeAt } from "./logic.mjs";

const OPEN_MILLISECONDS = 3000; // a blocked MediaSource stays silent instead of failing
const GLANCE_MILLISECONDS = 150;

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Resolves on the first event of that name; rejects on `error` or when it takes too long. */
async function once(target, name, milliseconds = 30_000) {
  const listening = new AbortController();
  try {
    await new Promise((done, fail) => {
      const { signal } = listening;
      target.addEventListener(name, done, { signal });
      target.addEventListener("error", () => fail(new Error(`${name} failed`)), { signal });
      const timer = setTimeout(() => fail(new Error(`no ${name}`)), milliseconds);
      signal.addEventListener("abort", () => clearTimeout(timer));
    });
  } finally {
    listening.abort();
  }
}

/** Plays until the stream has ended; rejects if this browser cannot join fragments. */
export async function playFragments(video, status) {
  if (!("MediaSource" in globalThis)) throw new Error("no MediaSource");
  while (!status().live) {
    if (hasEnded(status())) return;
    await sleep(GLANCE_MILLISECONDS);
  }
  const kind = `video/mp4; codecs="${status().live.codec}"`;
  if (!MediaSource.isTypeSupported(kind)) throw new Error(`cannot play ${kind}`);
  const source = new MediaSource();
  video.src = URL.createObjectURL(source);
  await once(source, "sourceopen", OPEN_MILLISECONDS);
  URL.revokeObjectURL(video.src);
  await pull(video, source.addSourceBuffer(kind), status);
}

async function pull(video, buffer, status) {
  const ranges = () => Array.from(buffer.buffered, (_, i) => [buffer.buffered.start(i), buffer.buffered.end(i)]);
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

async function feed(buffer, data) {
  const fed = once(buffer, "updateend");
  buffer.appendBuffer(data);
  await fed;
}

async function remove(buffer, [start, end]) {
  const removed = once(buffer, "updateend");
  buffer.remove(start, end);
  await removed;
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
