// What a viewer does with the picture: holds it, moves in the video, has it played again, makes it large.

import { firstSecond, secondAt, secondsMade } from "./timeline.mjs";

const NEWEST_SECONDS = 3; // so near to the newest picture a viewer counts as following
const KEYS = {
  " ": "turn", k: "turn", ArrowLeft: "back", ArrowRight: "on", Home: "again", End: "newest", f: "full", l: "repeat",
};

/** What a key does with the picture, by the name of a Playback's method, or an empty text. */
export function keyOf({ key, ctrlKey, altKey, metaKey }) {
  return ctrlKey || altKey || metaKey ? "" : (KEYS[key.length === 1 ? key.toLowerCase() : key] ?? "");
}

/** `widget` has the state, the player of the stream that is shown, the elements, and `show()`. */
export class Playback {
  constructor(widget) {
    Object.assign(this, { widget, held: false, following: true, loops: false });
  }

  /** Another stream is shown. */
  begin() {
    Object.assign(this, { held: false, following: true });
  }

  listen(on) {
    const { parts } = this.widget;
    const does = [
      ["hold", "turn"], ["video", "turn"], ["canvas", "turn"], ["newest", "newest"], ["again", "again"],
      ["secondBack", "back"], ["secondOn", "on"], ["loop", "repeat"], ["full", "full"],
    ];
    for (const [part, act] of does) on(parts[part], "click", () => this.do(act));
    on(parts.bar, "input", () => this.seek(Number(parts.bar.value)));
    on(parts.strip, "click", (event) => this.seekInStrip(event));
    on(parts.strip, "keydown", (event) => this.pressInStrip(event));
    on(parts.list, "click", ({ target }) => target.dataset.from && this.seek(Number(target.dataset.from)));
    for (const each of [parts.screen, parts.place]) on(each, "keydown", (event) => this.press(event));
    on(document, "fullscreenchange", () => this.widget.show());
  }

  do(act) {
    if (!this.widget.player) return;
    this[act]();
    this.widget.show();
  }

  press(event) {
    const act = keyOf(event);
    // a button has its own use of the space key
    if (!act || (event.key === " " && event.target.closest("button"))) return;
    event.preventDefault();
    this.do(act);
  }

  /** Holds the picture or lets it go on; at the end of the finished video, plays it again. */
  turn() {
    const { player } = this.widget;
    this.held = !this.held && !player.over;
    if (this.held) this.following = false;
    if (player.over) player.seek(0);
  }

  hold() {
    Object.assign(this, { held: true, following: false });
  }

  /** Plays from the first second that can still be had. */
  again() {
    this.held = false;
    this.seek(this.first);
  }

  back() {
    this.step(-1);
  }

  on() {
    this.step(1);
  }

  /** Goes so many seconds on. At the end of the video the picture stays where it is put. */
  step(seconds) {
    const { player, state } = this.widget;
    if (player.over) this.held = true;
    this.seek(Math.min(secondsMade(state), Math.max(this.first, player.target + seconds)));
  }

  newest() {
    const { player, state } = this.widget;
    if (!player.finished) Object.assign(this, { held: false, following: true });
    player.seek(player.finished ? secondsMade(state) : Math.max(0, secondsMade(state) - 1));
  }

  /** Has the finished video played again whenever it comes to its end, or not any more. */
  repeat() {
    this.loops = !this.loops;
    if (this.loops && this.widget.player.over) this.again();
  }

  /** Fills the screen with picture, position and prompts, or goes back. */
  async full() {
    const { root, video } = this.widget.parts;
    if (this.isFull) await document.exitFullscreen();
    else if (root.requestFullscreen) await root.requestFullscreen();
    else video.webkitEnterFullscreen?.(); // what phones have that know no other
  }

  get isFull() {
    return document.fullscreenElement === this.widget.parts.root;
  }

  /** Whether this browser can fill the screen with the picture. */
  get canFill() {
    const { root, video } = this.widget.parts;
    return Boolean((root.requestFullscreen && document.fullscreenEnabled) || video.webkitEnterFullscreen);
  }

  get first() {
    const { player, state } = this.widget;
    return player.finished ? 0 : firstSecond(state);
  }

  seek(seconds) {
    const { player, state } = this.widget;
    this.following = secondsMade(state) - seconds < NEWEST_SECONDS;
    player.seek(seconds);
  }

  /** One key goes from prompt to prompt, since many may be too narrow for a pointer. */
  pressInStrip(event) {
    const spans = [...this.widget.parts.strip.children];
    const at = spans.indexOf(document.activeElement);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: spans.length - 1 }[event.key];
    const span = at < 0 || to === undefined ? null : spans[to];
    if (!span) return;
    event.preventDefault();
    span.focus();
    this.seek(Number(span.dataset.from));
  }

  seekInStrip(event) {
    const { parts, state } = this.widget;
    const box = parts.strip.getBoundingClientRect();
    const span = event.target.closest("button");
    // a key press on a span has no place, so it means the span's beginning
    const byKey = span && event.detail === 0;
    this.seek(byKey ? Number(span.dataset.from) : secondAt(event.clientX - box.left, box.width, state));
  }
}
