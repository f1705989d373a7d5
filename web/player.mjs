// Shows one stream in the best way this browser can, and in the next one when that fails.

import { afterTrouble, firstWay } from "./fallback.mjs";
import { Trouble } from "./link.mjs";
import { EndlessPlayer, FinishedPlayer, PicturePlayer } from "./plain.mjs";
import { SegmentPlayer } from "./segments.mjs";

const GLANCE_MILLISECONDS = 150;

/**
 * `screen` is {video, canvas}; `view` is {state(), seen(), held(), following(), loops()}; `without` names ways that must not
 * be taken.
 */
export class Player {
  constructor(screen, link, view, without = []) {
    Object.assign(this, { screen, link, view, last: 0, finished: false, current: null });
    this.able = {
      segments: "MediaSource" in globalThis && !without.includes("segments"),
      file: !without.includes("file"),
    };
    this.keepable = true; // the finished file can be shown
    this.choice = firstWay(this.able);
  }

  get seconds() {
    return this.current?.seconds ?? this.last;
  }

  /** The second that was asked for last, until it is shown. */
  get target() {
    return this.current?.target ?? this.seconds;
  }

  /** Seconds buffered ahead, or null where nobody knows. */
  get buffered() {
    return this.current?.buffered ?? null;
  }

  /** Why nothing more is fetched: "unknown", "unreachable", "fileGone" or nothing. */
  get given() {
    return this.keepable || this.showable ? (this.current?.given ?? "") : "fileGone";
  }

  /** Whether there is something to show: media in the server's memory, or a finished file that was not refused here. */
  get showable() {
    const { media, video } = this.view.state();
    return Boolean(media || (video && this.keepable));
  }

  /** Whether the finished video was shown to its end. */
  get over() {
    return this.current?.over ?? false;
  }

  /** Whether a place of the video can be chosen. */
  get seekable() {
    return this.finished || this.choice.way !== "file";
  }

  seek(seconds) {
    this.current?.seek(seconds);
  }

  retry() {
    this.keepable = true;
    this.current?.retry();
  }

  /** Runs until the link is closed. */
  async run() {
    while (!this.link.signal.aborted) {
      try {
        while (!this.showable) await this.link.sleep(GLANCE_MILLISECONDS);
        await this.show();
        if (!this.keepable) return;
      } catch (why) {
        if (this.link.signal.aborted) return;
        if (!(why instanceof Trouble)) throw why;
        if (this.finished) [this.finished, this.keepable] = [false, false];
        else this.choice = afterTrouble(this.choice, why.kind, this.able);
      }
    }
  }

  /** Resolves when the stream was shown to its end; the finished file stays for ever. */
  async show() {
    const { video, canvas } = this.screen;
    const whole = this.keepable && this.view.state().video;
    const place = whole ? "finished" : this.choice.way;
    const pictures = place === "pictures";
    [video.hidden, canvas.hidden] = [pictures, !pictures];
    this.last = this.seconds;
    this.current = this.made(place);
    this.finished = whole;
    await this.current.play();
  }

  made(place) {
    const { screen, link, view } = this;
    if (place === "finished") return new FinishedPlayer(screen.video, link, view, this.last);
    if (place === "segments") return new SegmentPlayer(screen.video, link, view);
    if (place === "file") return new EndlessPlayer(screen.video, link, view);
    return new PicturePlayer(screen.canvas, link, view);
  }

  dispose() {
    this.link.close();
    const { video } = this.screen;
    video.pause();
    video.removeAttribute("src");
    video.load();
  }
}
