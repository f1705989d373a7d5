// The list of takes to go on with, in an element of any page.

import { copyText } from "./clipboard.mjs";
import { answerOf } from "./link.mjs";
import { ordered, rowOf } from "./takes.mjs";
import { buildTakes, showRows } from "./takes_view.mjs";
import { loadStyle, put } from "./view.mjs";
import { speaker } from "./words.mjs";

const TICK_MILLISECONDS = 1000;
const REST_SECONDS = 60; // between two looks while somebody can see the list
const SOON_SECONDS = 5; // after one that failed
const STEPS = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };

const now = () => performance.now() / 1000;

/**
 * Mounts the list. `transport` as the preview's; `value()` is the name of the take that is chosen, `choose(name, names)`
 * takes another one of the names that there are. `language`, `theme()` and `collapsed()` as the preview's. `tallest()`
 * limits the list's height as CSS does; "" is the style sheet's limit. `linked()`: whether what is chosen leads anywhere.
 * Returns {refresh(), dispose()}.
 */
export function mountTakes(element, options) {
  return new TakesList(element, options);
}

class TakesList {
  constructor(element, { transport, value, choose, language = "en", ...options }) {
    Object.assign(this, { transport, value, choose, language, say: speaker(language) });
    Object.assign(this, { theme: () => "", collapsed: () => false, linked: () => true, tallest: () => "", ...options });
    Object.assign(this, { takes: null, lost: false, due: 0, asking: false, actions: { asked: "", told: {} } });
    this.leaving = new AbortController();
    loadStyle();
    this.parts = buildTakes(element, this.say);
    this.listen();
    this.timer = setInterval(() => this.tick(), TICK_MILLISECONDS);
    this.tick();
  }

  /** Asks for the list at once. */
  refresh() {
    this.due = 0;
    this.tick();
  }

  dispose() {
    this.leaving.abort();
    clearInterval(this.timer);
    this.parts.root.remove();
  }

  listen() {
    const { root, refresh, list } = this.parts;
    const { signal } = this.leaving;
    const on = (target, name, act) => target.addEventListener(name, act, { signal });
    on(refresh, "click", () => this.refresh());
    on(list, "click", (event) => this.press(event.target.closest("button")));
    on(list, "keydown", (event) => this.step(event));
    // the page around must not take keys for its own shortcuts, nor the wheel for its zoom while the list moves
    on(root, "keydown", (event) => event.stopPropagation());
    on(list, "wheel", (event) => list.scrollHeight > list.clientHeight && !event.ctrlKey && event.stopPropagation());
    on(document, "visibilitychange", () => this.tick());
  }

  get seen() {
    const { root } = this.parts;
    return !document.hidden && !this.collapsed() && root.isConnected && (root.checkVisibility?.() ?? true);
  }

  tick() {
    this.show();
    if (!this.asking && now() >= this.due && this.seen) this.ask();
  }

  async ask() {
    this.asking = true;
    const { signal } = this.leaving;
    const { status, body } = await answerOf(() => this.transport.get("/rivulet/takes", { signal }), "json", null);
    this.asking = false;
    if (signal.aborted) return;
    this.lost = status !== 200;
    this.due = now() + (this.lost ? SOON_SECONDS : REST_SECONDS);
    if (!this.lost) this.takes = ordered(body.takes);
    this.show();
  }

  /** A take is chosen, or something is done with it. */
  press(button) {
    const entry = button?.closest(".entry");
    if (!entry) return;
    const { name } = entry.dataset;
    const pressed = (each) => button.classList.contains(each);
    if (pressed("take")) this.take(button);
    else if (pressed("takeTimeline")) this.copyTimeline(name);
    else if (pressed("takeDeleteAll")) this.remove(name, "all");
    else if (pressed("takeDeleteSnapshots")) this.remove(name, "snapshots");
    else this.actions = { asked: pressed("takeDelete") ? name : "", told: {} };
    this.show();
    if (!pressed("takeDelete")) return;
    entry.querySelector(".takeKeep").focus();
    entry.scrollIntoView({ block: "nearest" });
  }

  pathOf(name, what) {
    const { id } = this.takes.find((take) => take.name === name);
    return `/rivulet/take/${encodeURIComponent(id)}/${what}`;
  }

  tell(name, words) {
    this.actions = { asked: "", told: { name, words } };
    this.show();
    this.entryOf(name)?.scrollIntoView({ block: "nearest" });
  }

  entryOf(name) {
    return [...this.parts.list.children].find((entry) => entry.dataset.name === name);
  }

  async copyTimeline(name) {
    const { body } = await answerOf(() => this.transport.get(this.pathOf(name, "timeline"), {}), "json", null);
    if (!body?.timeline) return this.tell(name, body?.error ?? this.say("takeNoTimeline"));
    // what cannot be copied so is shown, to be copied by hand
    this.tell(name, (await copyText(body.timeline)) ? this.say("takeTimelineCopied") : body.timeline);
  }

  /** Deletes the whole take or its snapshots. */
  async remove(name, what) {
    this.actions = { asked: "", told: {} };
    const { status, body } = await answerOf(() => this.transport.post(this.pathOf(name, "delete"), { what }), "json", null);
    if (status !== 200) this.tell(name, body?.error ?? this.say("takesLost"));
    this.refresh();
  }

  take(element) {
    if (!element || element.getAttribute("aria-disabled") === "true") return;
    const names = this.takes.filter((take) => take.recoverable).map((take) => take.name);
    this.choose(element.dataset.name, names);
    this.show();
  }

  step(event) {
    const step = STEPS[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const rows = [...this.parts.list.querySelectorAll(".take")];
    const at = rows.indexOf(event.target.closest(".take")) + step;
    rows[Math.max(0, Math.min(rows.length - 1, at))]?.focus();
    this.show();
  }

  show() {
    const { parts, takes, say, language } = this;
    parts.root.dataset.theme = this.theme();
    parts.list.style.maxHeight = this.tallest();
    const missing = this.lost ? "takesLost" : takes === null ? "takesLoading" : takes.length ? "" : "takesNone";
    put(parts.none, missing && say(missing));
    parts.none.hidden = missing === "";
    const value = this.value();
    const named = (takes ?? []).some((take) => take.name === value);
    const words = !value ? "takeUnchosen" : !named ? "takeGone" : this.linked() ? "takeChosen" : "takeUnlinked";
    put(parts.chosen, takes?.length ? say(words, { name: value }) : "");
    parts.chosen.dataset.wrong = words === "takeGone";
    if (takes === null) return;
    const rows = takes.map((take) => rowOf(take, Date.now() / 1000, say, language));
    showRows(parts.list, rows, value, (row) => this.pictureOf(row.id), this.actions, say);
  }

  pictureOf(id) {
    const { changed } = this.takes.find((take) => take.id === id);
    // another address when the take has grown, so that its picture is fetched anew
    return this.transport.url(`/rivulet/take/${encodeURIComponent(id)}/picture?at=${Math.floor(changed)}`);
  }
}
