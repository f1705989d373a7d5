// The live preview: a stream's picture, its numbers and its controls, in an element of any page.

import { Bell, newsOf } from "./bell.mjs";
import { copyText } from "./clipboard.mjs";
import {
  answered, ENDING, newBook, newestTaken, newViewer, promptProblem, settled, toSend, wished,
} from "./controls.mjs";
import { CutOff } from "./cut_off.mjs";
import { Face } from "./face.mjs";
import { Feed } from "./feed.mjs";
import { problemWords } from "./line.mjs";
import { answerOf, Link } from "./link.mjs";
import { stillOf } from "./media.mjs";
import { Playback } from "./playback.mjs";
import { Player } from "./player.mjs";
import { addPlayer } from "./player_view.mjs";
import { wayBack } from "./redo.mjs";
import { RedoForm } from "./redo_form.mjs";
import { hasEnded } from "./session.mjs";
import { secondsMade } from "./timeline.mjs";
import { build, loadStyle } from "./view.mjs";
import { speaker } from "./words.mjs";

const TICK_MILLISECONDS = 250;
const TOLD_MILLISECONDS = 4000; // for which a button says what became of its press
const NEWS = { ended: "bellEnded", failed: "bellFailed", warning: "bellWarning" };

const now = () => performance.now() / 1000;

/**
 * Mounts the widget. `transport` is {get(path, {signal}), post(path, json), url(path)}; `client()` names the page to the
 * server, `place()` is the node in it, {node, path, workflow}: only what this client queued from there is shown unasked.
 * `collapsed()` tells whether the node is folded, `theme()` is "dark", "light" or "" for the system's. Where the page hears
 * no events, `busySeconds` says how often the state of a running stream is asked for. `queue()` queues the workflow, where
 * the page can; `prefix()` is what the node's videos are named by, for the offer to go on with one that was cut off.
 * `next(known)` tells of the run that is queued after that of id `known` and has not begun: {standing: "waiting", ahead}, or
 * {standing: "running", here, title}: whether the stream's own node has its turn, else the name of the one that has; or null.
 * Returns {hear(message), refresh(awaited), request(prompt), dispose(), state, parts}.
 */
export function mount(element, options) {
  return new Widget(element, options);
}

class Widget {
  constructor(element, { transport, client, place, busySeconds, language = "en", theme = "", ...options }) {
    Object.assign(this, { transport, client, place, language, say: speaker(language) });
    const absent = { collapsed: () => false, without: [], queue: null, prefix: () => null, next: () => null };
    Object.assign(this, { ...absent, ...options });
    this.theme = typeof theme === "function" ? theme : () => theme;
    Object.assign(this, { player: null, sending: false, problem: "", copied: "", listed: false });
    // what the run that was queued is to make again, and what to say when it has begun
    Object.assign(this, { book: newBook(newViewer()), asked: null, backTo: null });
    this.feed = new Feed(transport, { client, place, seen: () => this.seen, busySeconds }, (before) => this.follow(before));
    this.cutOff = new CutOff(transport, this.prefix, () => (this.state?.phase === "failed" ? this.state.take : ""));
    this.bell = new Bell();
    this.leaving = new AbortController();
    loadStyle();
    loadStyle("./player.css");
    this.parts = build(element, this.say);
    addPlayer(this.parts, this.say);
    this.playback = new Playback(this);
    this.redo = new RedoForm(this.parts, this.say, (told) => this.goBack(told));
    this.face = new Face(this);
    this.listen();
    this.timer = setInterval(() => this.tick(), TICK_MILLISECONDS);
    this.tick();
  }

  get state() {
    return this.feed.state;
  }

  /** Takes an event of the server. */
  hear(message) {
    this.feed.hear(message);
  }

  /** Asks for the state at once: the page was loaded, the connection came back, or another stream is `awaited`. */
  refresh(awaited = false) {
    this.feed.refresh(awaited);
    this.cutOff.refresh();
  }

  /** Asks for a prompt as if it had been typed. */
  request(prompt) {
    this.parts.prompt.value = prompt;
    this.parts.form.requestSubmit();
  }

  /** Ends everything that runs, and leaves the element empty. */
  dispose() {
    this.leaving.abort();
    this.feed.close();
    clearInterval(this.timer);
    this.player?.dispose();
    this.bell.hush();
    this.parts.root.remove();
  }

  listen() {
    const { parts } = this;
    const { signal } = this.leaving;
    const on = (target, name, act) => target.addEventListener(name, act, { signal });
    const wishes = (button, wish) => on(button, "click", () => this.wish(wish()));
    on(document, "visibilitychange", () => this.feed.refresh());
    this.playback.listen(on);
    on(parts.copy, "click", () => this.copyPath());
    on(parts.all, "click", () => this.show((this.listed = !this.listed)));
    wishes(parts.pause, () => ({ do: this.state.phase === "paused" ? "resume" : "pause" }));
    for (const kind of ["stop", "mark", "yield"]) wishes(parts[kind], () => ({ do: kind }));
    on(parts.back, "click", () => this.turnBack());
    on(parts.bell, "click", () => this.bell.turn().then(() => this.show()));
    on(parts.goOn, "click", () => this.goOnWith(this.cutOff.take));
    on(parts.notNow, "click", () => this.show(this.cutOff.dismiss()));
    on(parts.retry, "click", () => this.retry());
    on(parts.show, "click", () => this.feed.take(this.feed.offered));
    on(parts.prompt, "input", () => this.show((this.problem = "")));
    on(parts.form, "submit", (event) => this.submit(event));
    this.redo.listen(on, () => this.here);
    // the page around must not take letters for its own shortcuts
    on(parts.root, "keydown", (event) => event.stopPropagation());
  }

  get seen() {
    const { root } = this.parts;
    return !document.hidden && !this.collapsed() && root.isConnected && (root.checkVisibility?.() ?? true);
  }

  async tick() {
    const { feed } = this;
    const wasGone = feed.gone;
    this.send();
    this.show();
    const listed = await feed.tick();
    if (feed.gone && !wasGone && this.state && !hasEnded(this.state)) this.ring("bellGone");
    if (listed && feed.idle && this.queue) await this.cutOff.look(this.leaving.signal);
  }

  /** The state changed. */
  follow(before) {
    const { state } = this;
    this.tell(newsOf(before, state));
    this.book = settled(this.book, state);
    if (state.session !== before?.session) this.begin();
  }

  /** Rings for what nobody here asked for. */
  tell(news) {
    const { state, book } = this;
    if (!news) return;
    if (news === "failed") this.refresh();
    const wanted = state.stopped || ENDING.some((kind) => newestTaken(book, kind));
    if (!wanted) this.ring(NEWS[news], state.watch?.warning);
  }

  ring(name, more = "") {
    const { sentence, file } = this.state;
    this.bell.ring(this.say(name), [sentence || more, file].filter(Boolean).join(" "));
  }

  begin() {
    const { state } = this;
    const asked = this.asked ?? newestTaken(this.book, "redo");
    // on the way back the picture stays until there is another
    this.parts.video.poster = asked ? stillOf(this.parts.video) : "";
    this.player?.dispose();
    this.backTo = asked ? asked.frame : null;
    Object.assign(this, { book: newBook(this.book.viewer), problem: "", asked: null, listed: false });
    this.playback.begin();
    this.parts.root.style.setProperty("--ratio", state.width / state.height);
    const { video, canvas, prompt } = this.parts;
    const link = new Link(this.transport, state.session);
    const view = {
      state: () => this.state, seen: () => this.seen, held: () => this.playback.held,
      following: () => this.playback.following, loops: () => this.playback.loops,
    };
    for (const shown of [video, canvas]) shown.style.aspectRatio = `${state.width} / ${state.height}`;
    this.player = new Player({ video, canvas }, link, view, this.without);
    this.player.run();
    this.redo.close();
    prompt.value = "";
  }

  /** Where the picture stands. */
  get here() {
    return { seconds: Math.min(this.player.seconds, secondsMade(this.state)), state: this.state };
  }

  /** Opens the redo form over the picture, which is held; or closes it. */
  turnBack() {
    if (this.redo.open) return this.redo.close();
    this.playback.hold();
    this.redo.begin(this.here);
    this.show();
  }

  /** Has the take made again as `told`; returns why not, or an empty text. */
  async goBack(told) {
    if (wayBack(this.state, this.queue) === "later") return this.goOn(this.state.take, told);
    this.wish({ do: "redo", ...told });
    this.feed.refresh(true);
    return "";
  }

  async goOnWith(take) {
    this.parts.goOn.disabled = true;
    this.problem = await this.goOn(take.id, {});
    this.parts.goOn.disabled = false;
    this.show();
  }

  /** Asks that the node's next run goes on with a take, and queues it; returns why not, or an empty text. */
  async goOn(take, told) {
    const { node, path: way = String(node), workflow } = this.place();
    // of a stream the server told the whole way to its node
    const message = { node: this.state?.node ?? way, workflow, client: this.client(), ...told };
    const path = `/rivulet/take/${encodeURIComponent(take)}/go-on`;
    const { status, body } = await answerOf(() => this.transport.post(path, message), "json", null);
    if (status !== 202) return body?.error ?? this.say("lost");
    this.asked = told.frame === undefined ? null : told;
    this.cutOff.take = null;
    await this.queue();
    this.feed.refresh(true);
    return "";
  }

  async copyPath() {
    const done = await copyText(this.state.path);
    if (!done) getSelection().selectAllChildren(this.parts.path);
    this.copied = done ? "copied" : "copyYourself";
    setTimeout(() => this.show((this.copied = "")), TOLD_MILLISECONDS);
    this.show();
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
    const { status, body } = await answerOf(() => this.transport.post(path, message), "json", null);
    this.sending = false;
    if (this.leaving.signal.aborted || this.state.session !== session) return;
    this.book = answered(this.book, message.number, { status, error: body?.error ?? `${status}` }, now());
    this.feed.refresh();
    this.show();
  }

  show() {
    if (!this.leaving.signal.aborted) this.face.show();
  }
}
