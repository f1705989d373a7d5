// Shows the stream without Media Source: from one endless file, from single pictures, or the finished file.

import { nextFrame } from "./buffer.mjs";
import { PICTURE_MILLISECONDS } from "./fallback.mjs";
import { fileUrl, Trouble } from "./link.mjs";
import { once, stillOf } from "./media.mjs";
import { placeToJoin, secondsOf } from "./pull.mjs";
import { hasEnded } from "./session.mjs";
import { frameAt } from "./timeline.mjs";

const GLANCE_MILLISECONDS = 150;

/** What the ways without segments have in common: nothing is known of a buffer, nothing is given up. */
class PlainPlayer {
  buffered = null;
  given = "";

  constructor(video, link, view) {
    Object.assign(this, { video, link, view });
  }

  retry() {}

  /** A place that is chosen is shown at once. */
  get target() {
    return this.seconds;
  }

  /** Follows the viewer's wish to hold the picture, and tells of errors. */
  async keepUp() {
    const { video, view } = this;
    if (video.error) throw new Trouble("media", video.error.message);
    if (view.held() !== video.paused) await (view.held() ? video.pause() : video.play().catch(() => {}));
    await this.link.sleep(GLANCE_MILLISECONDS);
  }
}

/** One file that grows while it is played; its place cannot be chosen. */
export class EndlessPlayer extends PlainPlayer {
  from = 0; // second of the stream at which the player's own time is 0

  get seconds() {
    return this.from + this.video.currentTime;
  }

  seek() {}

  async play() {
    let place = placeToJoin(this.view.state());
    while (place) {
      await this.playFrom(place);
      place = await this.following();
    }
    while (!this.view.state().video) await this.link.sleep(GLANCE_MILLISECONDS);
  }

  async playFrom(place) {
    this.video.src = this.link.url(`/live?from=${place.frame}`);
    const shown = once(this.video, "loadeddata", PICTURE_MILLISECONDS);
    await shown.catch((why) => Promise.reject(new Trouble("silent", why.message)));
    // some browsers begin to count at 0, others at the time that the file tells
    this.from = secondsOf(place, this.view.state()) - this.video.currentTime;
    while (!this.video.ended) await this.keepUp();
  }

  /** Returns where the next part of the stream begins, or null where there is none. */
  async following() {
    const frame = Math.round(this.seconds * this.view.state().fps);
    for (;;) {
      const { frames } = this.view.state();
      if (frame < frames) break;
      if (hasEnded(this.view.state())) return null;
      await this.link.sleep(GLANCE_MILLISECONDS);
    }
    const { status, body } = await this.link.get(`/at/${frame}`, "json");
    return status === 200 ? body : placeToJoin(this.view.state());
  }
}

/** The finished file. While it is loaded, the picture and the second stay that were shown last. */
export class FinishedPlayer extends PlainPlayer {
  loaded = false;

  constructor(video, link, view, seconds) {
    super(video, link, view);
    this.begin = seconds;
  }

  get seconds() {
    return this.loaded ? this.video.currentTime : this.begin;
  }

  get over() {
    return this.loaded && this.video.ended;
  }

  seek(seconds) {
    if (this.loaded) this.video.currentTime = seconds;
    else this.begin = seconds;
  }

  async play() {
    this.video.poster = stillOf(this.video) || this.video.poster;
    this.video.src = fileUrl(this.link, this.view.state());
    await once(this.video, "loadedmetadata").catch((why) => Promise.reject(new Trouble("media", why.message)));
    this.video.currentTime = Math.min(this.begin, this.video.duration);
    this.loaded = true;
    for (;;) {
      this.video.loop = this.view.loops();
      if (this.video.ended) await this.link.sleep(GLANCE_MILLISECONDS);
      else await this.keepUp();
    }
  }
}

/** One picture after another. */
export class PicturePlayer extends PlainPlayer {
  shown = -1;

  constructor(canvas, link, view) {
    super(null, link, view);
    this.canvas = canvas;
  }

  get seconds() {
    return Math.max(0, this.shown) / this.view.state().fps;
  }

  seek(seconds) {
    this.shown = frameAt(seconds, this.view.state()) - 1;
  }

  async play() {
    let due = performance.now();
    for (;;) {
      const state = this.view.state();
      const frame = this.next(state);
      if (frame === null && hasEnded(state) && state.video) return;
      if (frame === null || !(await this.draw(frame))) {
        await this.link.sleep(GLANCE_MILLISECONDS);
        continue;
      }
      due = Math.max(due + 1000 / state.fps, performance.now() - 500);
      await this.link.sleep(Math.max(0, due - performance.now()));
    }
  }

  next(state) {
    const { view, shown } = this;
    if (view.held() || !view.seen()) return null;
    if (view.following() || shown < 0) return nextFrame(shown, state);
    return shown + 1 < state.frames ? shown + 1 : null;
  }

  async draw(frame) {
    const before = this.shown;
    const { status, headers, body } = await this.link.get(`/frame/${frame}`, "blob");
    if (status !== 200) return false;
    const picture = await createImageBitmap(body);
    // somebody chose another place meanwhile
    if (this.shown !== before) return false;
    Object.assign(this.canvas, { width: picture.width, height: picture.height });
    this.canvas.getContext("2d").drawImage(picture, 0, 0);
    picture.close();
    this.shown = Number(headers.get("X-Rivulet-Frame"));
    return true;
  }
}
