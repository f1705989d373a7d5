// The live preview: a stream's picture, its numbers and its controls, in an element of any page.

import { clock } from "./clock.mjs";
import { answered, isUnderWay, modesOf, newBook, newViewer, promptProblem, settled, toSend, wished } from "./controls.mjs";
import { failureWords, phaseWords, problemWords, promptWords, stateLine } from "./line.mjs";
import { answerOf, Link } from "./link.mjs";
import { Player } from "./player.mjs";
import {
  asksForList, hasEnded, isGone, isHere, lacksPrompts, merged, othersStream, ownStream, pollRest,
} from "./session.mjs";
import { firstSecond, promptAt, secondAt, secondsMade, spansOf } from "./timeline.mjs";
import { build, loadStyle, offerModes, put, showLine, showLink, showSpans } from "./view.mjs";
import { speaker } from "./words.mjs";

const TICK_MILLISECONDS = 250;
const NEWEST_SECONDS = 3; // so near to the newest picture a viewer counts as following

const now = () => performance.now() / 1000;

/**
 * Mounts the widget. `transport` is {get(path, {signal}), post(path, json), url(path)}; `client()` names the page to the
 * server, `place()` is the node in it, {node, workflow}: only what this client queued from there is shown unasked.
 * `collapsed()` tells whether the node is folded, `theme()` is "dark", "light" or "" for the system's. Where the page hears
 * no events, `busySeconds` says how often the state of a running stream is asked for.
 * Returns {hear(message), refresh(), request(prompt), dispose()}.
 */
export function mount(element, options) {
  return new Widget(element, options);
}

class Widget {
  constructor(element, { transport, client, place, busySeconds, language = "en", theme = "", ...options }) {
    Object.assign(this, { transport, client, place, busySeconds, say: speaker(language) });
    Object.assign(this, { collapsed: () => false, without: [], ...options });
    this.theme = typeof theme === "function" ? theme : () => theme;
    Object.assign(this, { state: null, player: null, lost: 0, due: 0, polling: false, sending: false, problem: "" });
    this.offered = null; // another client's stream
    Object.assign(this, { held: false, following: true, book: newBook(newViewer()) });
    this.leaving = new AbortController();
    loadStyle();
    this.parts = build(element, this.say);
    this.listen();
    this.timer = setInterval(() => this.tick(), TICK_MILLISECONDS);
    this.tick();
  }

  /** Takes an event of the server. */
  hear(message) {
    if (message.session === this.state?.session || isHere(message, this.place())) this.take(message);
  }

  /** Asks for the state at once: the page was loaded, or the connection came back. */
  refresh() {
    this.due = 0;
  }

  /** Asks for a prompt as if it had been typed. */
  request(prompt) {
    this.parts.prompt.value = prompt;
    this.parts.form.requestSubmit();
  }

  /** Ends everything that runs, and leaves the element empty. */
  dispose() {
    this.leaving.abort();
    clearInterval(this.timer);
    this.player?.dispose();
    this.parts.root.remove();
  }

  listen() {
    const { parts } = this;
    const { signal } = this.leaving;
    const on = (target, name, act) => target.addEventListener(name, act, { signal });
    on(document, "visibilitychange", () => this.refresh());
    for (const each of [parts.hold, parts.video]) on(each, "click", () => this.turn());
    on(parts.bar, "input", () => this.seek(Number(parts.bar.value)));
    on(parts.newest, "click", () => this.toNewest());
    on(parts.strip, "click", (event) => this.seekInStrip(event));
    on(parts.pause, "click", () => this.wish({ do: this.state.phase === "paused" ? "resume" : "pause" }));
    on(parts.stop, "click", () => this.wish({ do: "stop" }));
    on(parts.retry, "click", () => this.retry());
    on(parts.show, "click", () => this.take(this.offered));
    on(parts.prompt, "input", () => this.show((this.problem = "")));
    on(parts.form, "submit", (event) => this.submit(event));
    // the page around must not take letters for its own shortcuts
    on(parts.root, "keydown", (event) => event.stopPropagation());
  }

  get seen() {
    const { root } = this.parts;
    return !document.hidden && !this.collapsed() && root.isConnected && (root.checkVisibility?.() ?? true);
  }

  tick() {
    if (!this.polling && now() >= this.due) this.poll();
    this.send();
    this.show();
  }

  async poll() {
    this.polling = true;
    const list = asksForList(this.state);
    const one = () => `/rivulet/stream/${encodeURIComponent(this.state.session)}`;
    const path = list ? `/rivulet/streams?client=${encodeURIComponent(this.client())}` : one();
    const { status, body } = await this.ask(() => this.transport.get(path, { signal: this.leaving.signal }));
    if (this.leaving.signal.aborted) return;
    const found = status === 200 && (list ? ownStream(this.place(), body) : body);
    if (status === 200 && list) this.offered = othersStream(this.place(), body);
    this.lost = status === 200 || status === 404 ? 0 : this.lost + 1;
    this.due = now() + pollRest(this.state, this.seen, this.lost, this.busySeconds);
    if (found) this.take(found);
    this.polling = false;
  }

  ask(request) {
    return answerOf(request, "json", null);
  }

  take(message) {
    const before = this.state;
    this.state = merged(before, message);
    if (this.state === before) return;
    this.book = settled(this.book, this.state);
    if (this.state.session !== before?.session) this.begin();
    if (lacksPrompts(this.state)) this.refresh();
  }

  begin() {
    this.player?.dispose();
    Object.assign(this, { held: false, following: true, book: newBook(this.book.viewer), problem: "" });
    const { video, canvas, prompt } = this.parts;
    const link = new Link(this.transport, this.state.session);
    const view = {
      state: () => this.state, seen: () => this.seen, held: () => this.held, following: () => this.following,
    };
    for (const shown of [video, canvas]) shown.style.aspectRatio = `${this.state.width} / ${this.state.height}`;
    this.player = new Player({ video, canvas }, link, view, this.without);
    this.player.run();
    prompt.value = "";
  }

  /** Holds the picture or lets it go on; at the end of the finished video, plays it again. */
  turn() {
    this.held = !this.held && !this.player.over;
    if (this.held) this.following = false;
    if (this.player.over) this.player.seek(0);
    this.show();
  }

  seek(seconds) {
    this.following = secondsMade(this.state) - seconds < NEWEST_SECONDS;
    this.player.seek(seconds);
  }

  seekInStrip(event) {
    const box = this.parts.strip.getBoundingClientRect();
    const span = event.target.closest("button");
    // a key press on a span has no place, so it means the span's beginning
    const byKey = span && event.detail === 0;
    this.seek(byKey ? Number(span.dataset.from) : secondAt(event.clientX - box.left, box.width, this.state));
  }

  toNewest() {
    Object.assign(this, { held: false, following: true });
    this.player.seek(Math.max(0, secondsMade(this.state) - 1));
  }

  retry() {
    this.player.retry();
    this.refresh();
  }

  wish(wish) {
    this.book = wished(this.book, wish, now());
    this.send();
    this.show();
  }

  submit(event) {
    event.preventDefault();
    const { prompt, mode } = this.parts;
    const problem = promptProblem(prompt.value, this.state);
    this.problem = problem && problemWords(problem, prompt.value, this.state, this.say);
    if (problem) this.show();
    else this.wish({ do: "prompt", prompt: prompt.value.trim(), mode: mode.value });
  }

  async send() {
    const message = this.state && !this.sending && toSend(this.book, now());
    if (!message) return;
    this.sending = true;
    const { session } = this.state;
    const path = `/rivulet/stream/${encodeURIComponent(session)}/control`;
    const { status, body } = await this.ask(() => this.transport.post(path, message));
    this.sending = false;
    if (this.leaving.signal.aborted || this.state.session !== session) return;
    this.book = answered(this.book, message.number, { status, error: body?.error ?? `${status}` }, now());
    this.refresh();
    this.show();
  }

  show() {
    const { parts, state } = this;
    parts.root.dataset.theme = this.theme();
    [parts.idle.hidden, parts.screen.hidden, parts.live.hidden] = [Boolean(state), !state, !state];
    parts.offer.hidden = !this.offered || Boolean(state);
    if (!state || this.leaving.signal.aborted) return;
    const ended = hasEnded(state);
    parts.root.dataset.phase = state.phase;
    put(parts.phase, phaseWords(state, this.say));
    showLine(parts.line, stateLine(state, ended ? null : this.player.buffered, this.say));
    this.showPlace(secondsMade(state));
    this.showTrouble();
    this.showControls(ended);
    this.showForm(ended);
  }

  showPlace(made) {
    const { parts, state, player, say } = this;
    const { bar, hold, time, newest } = parts;
    const at = Math.min(player.seconds, made);
    Object.assign(bar, { min: firstSecond(state), max: made });
    bar.value = at;
    for (const each of [bar, newest]) each.disabled = !player.seekable || made === 0;
    const words = say("positionText", { time: clock(at), made: clock(made) });
    bar.setAttribute("aria-valuetext", words);
    put(time, `${clock(at)} / ${clock(made)}`);
    hold.dataset.held = this.held || player.over;
    hold.ariaLabel = hold.title = say(player.over ? "playAgain" : this.held ? "playPicture" : "holdPicture");
    const range = (span) => say("spanText", { from: clock(span.from), to: clock(span.to), prompt: span.prompt });
    showSpans(parts.strip, spansOf(state), at, range);
    parts.strip.style.setProperty("--at", `${made ? (100 * at) / made : 0}%`);
    put(parts.caption, promptAt(at, state.prompts ?? [], state.fps));
  }

  showTrouble() {
    const { parts, state, player, say } = this;
    const given = player.given;
    const failed = state.phase === "failed" ? state.sentence : "";
    put(parts.trouble, failed || (isGone(this.lost) ? say("gone") : given ? say(given) : failureWords(this.book, state, say)));
    parts.retry.hidden = given !== "unreachable";
    const { way } = player.choice;
    const changed = !player.finished && way !== "segments";
    const shown = changed ? say(way === "file" ? "asFile" : "asPictures") : "";
    put(parts.note, [shown, state.notice].filter(Boolean).join(" "));
  }

  showControls(ended) {
    const { parts, state, book, say } = this;
    const turning = isUnderWay(book, "pause") ? "pausing" : isUnderWay(book, "resume") ? "resuming" : "";
    const stopping = isUnderWay(book, "stop");
    put(parts.pause, say(turning || (state.phase === "paused" ? "resume" : "pause")));
    put(parts.stop, say(stopping ? "stopping" : "stop"));
    parts.pause.disabled = Boolean(turning) || stopping;
    parts.stop.disabled = stopping;
    parts.pause.hidden = parts.stop.hidden = ended;
    parts.save.hidden = !state.video;
    if (state.video) showLink(parts.save, this.player.link.url("/video"), state.file);
  }

  showForm(ended) {
    const { parts, state, book, say } = this;
    const modes = modesOf(state);
    const fixed = modes.length === 0;
    offerModes(parts.mode, modes, say);
    for (const each of [parts.prompt, parts.mode, parts.change]) each.disabled = fixed;
    parts.form.hidden = ended;
    const { text, wrong } = promptWords(book, state, say);
    put(parts.told, this.problem || (fixed ? say("promptFixed") : text));
    parts.told.dataset.wrong = wrong || this.problem !== "";
    parts.prompt.setAttribute("aria-invalid", parts.told.dataset.wrong);
  }
}
