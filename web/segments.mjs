// Shows the stream from segments, joined by Media Source.

import { aheadOf, oldPart, placeAt } from "./buffer.mjs";
import { Trouble } from "./link.mjs";
import { canJoin, feed, openBuffer, rangesOf, remove } from "./media.mjs";
import { afterAnswer, atGoal, joinedAt, newPull, nextStep } from "./pull.mjs";
import { frameAt } from "./timeline.mjs";

const GLANCE_MILLISECONDS = 150;
const LEFT_SECONDS = 0.2; // of a buffer that has been played
const TIGHT_SECONDS = 5; // kept behind the playhead when the browser's buffer is full

const now = () => performance.now() / 1000;

/** Plays until the whole stream has been shown; rejects with a Trouble where that does not work. */
export class SegmentPlayer {
  constructor(video, link, view) {
    Object.assign(this, { video, link, view, pull: newPull(), buffer: null, wanted: null });
  }

  get seconds() {
    return this.video.currentTime;
  }

  /** The second that was asked for last, until it is shown. */
  get target() {
    return this.wanted ?? this.pull.goal ?? this.seconds;
  }

  get buffered() {
    return aheadOf(this.seconds, this.ranges());
  }

  get given() {
    return this.pull.given;
  }

  /** Puts the playhead at a second of the stream, fetching it first where it is not buffered. */
  seek(seconds) {
    this.wanted = seconds;
  }

  /** Asks again after it was given up. */
  retry() {
    this.pull = { ...newPull(), queue: this.pull.queue };
  }

  async play() {
    const { codec } = this.view.state().media;
    if (!canJoin(codec)) throw new Trouble("blocked", codec);
    try {
      this.buffer = await openBuffer(this.video, codec);
    } catch (why) {
      throw new Trouble("blocked", why.message);
    }
    while (!(await this.step())) {
      if (this.video.error) throw new Trouble("media", this.video.error.message);
    }
  }

  /** Returns true when there is nothing left to show. */
  async step() {
    if (this.wanted !== null) await this.jump();
    this.moveHead();
    const { video, view, pull } = this;
    const place = { at: this.seconds, ahead: this.buffered, seen: view.seen(), following: view.following() };
    const step = nextStep(pull, place, view.state(), now());
    if (step.do === "get") await this.take(step.number);
    else if (step.do === "join") await this.join(step.place, step.goal);
    else if (step.do === "finish" && view.state().video && (place.ahead < LEFT_SECONDS || video.paused)) return true;
    else await this.link.sleep(GLANCE_MILLISECONDS);
    const old = oldPart(this.seconds, this.ranges());
    if (old) await remove(this.buffer, old);
    return false;
  }

  moveHead() {
    const { video, pull } = this;
    const ranges = this.ranges();
    const arrived = pull.goal !== null && ranges.some(([start, end]) => pull.goal >= start - 0.01 && pull.goal < end);
    const place = arrived ? pull.goal : placeAt(video.currentTime, ranges);
    if (arrived) this.pull = atGoal(pull);
    if (place !== null && pull.queue.length < 2) video.currentTime = place;
    if (video.paused && !this.view.held() && video.readyState > 1) video.play().catch(() => {});
    if (!video.paused && this.view.held()) video.pause();
  }

  async jump() {
    const [seconds, state] = [this.wanted, this.view.state()];
    this.wanted = null;
    const here = this.ranges().some(([start, end]) => seconds >= start && seconds < end);
    if (here) {
      this.video.currentTime = seconds;
      return;
    }
    const { status, body } = await this.link.get(`/at/${frameAt(seconds, state)}`, "json");
    if (status === 200) await this.join(body, seconds);
  }

  async join(place, goal) {
    this.pull = joinedAt(place, goal);
    // pieces from elsewhere must not be taken for the place that is wanted
    if (goal !== null && this.ranges().length) await remove(this.buffer, [0, Infinity]);
  }

  async take(number) {
    const before = this.pull;
    const { status, headers, body } = await this.link.get(`/seg/${number}`);
    // somebody chose another place meanwhile
    if (this.wanted !== null || this.pull !== before) return;
    if (status === 200) await this.append(headers, body);
    const answer = { status, next: Number(headers.get("X-Rivulet-Next")) };
    this.pull = afterAnswer(before, answer, this.view.state(), now());
  }

  async append(headers, body) {
    const { buffer } = this;
    if (headers.get("X-Rivulet-Kind") === "init") buffer.timestampOffset = Number(headers.get("X-Rivulet-Start"));
    try {
      await feed(buffer, body);
    } catch (why) {
      if (why.name !== "QuotaExceededError") throw new Trouble("media", why.message);
      await remove(buffer, [0, Math.max(0.1, this.seconds - TIGHT_SECONDS)]);
      await feed(buffer, body).catch((again) => Promise.reject(new Trouble("media", again.message)));
    }
  }

  ranges() {
    return this.buffer ? rangesOf(this.buffer.buffered) : [];
  }
}
