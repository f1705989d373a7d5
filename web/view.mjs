// The widget's elements, and how they show what they are given. Nothing is decided here.

import { CURVES, HEIGHT, WIDTH } from "./drift.mjs";
import { SEEDS } from "./redo.mjs";

let made = 0; // labels need ids, and a page can have many widgets

const SVG = "http://www.w3.org/2000/svg";

/** Returns the element `tag` with properties, attributes (names with a dash, and `role`) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for" || name === "list") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Sets a text only when it differs, so that screen readers do not say it again. */
export function put(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

/** Loads a style sheet of this folder once. */
export function loadStyle(name = "./widget.css") {
  const href = new URL(name, import.meta.url).href;
  if (![...document.head.querySelectorAll("link")].some((link) => link.href === href)) {
    document.head.append(make("link", { rel: "stylesheet", href }));
  }
}

/** Builds everything into `root` and returns the elements by name. */
export function build(root, say) {
  const parts = {
    ...screen(say), ...cutOff(say), ...position(say), ...drift(say), ...buttons(say), ...redo(say), ...form(say),
  };
  parts.line = make("p", { className: "line" });
  parts.warning = make("p", { className: "warning", role: "status" });
  parts.trouble = make("p", { className: "trouble", role: "alert" });
  parts.retry = make("button", { type: "button", textContent: say("retry"), hidden: true });
  parts.note = make("p", { className: "note" });
  // beside the picture where there is room, and what is typed below both; the curves come late, so they push no button
  const side = make(
    "div", { className: "side" }, parts.place, parts.strip, parts.caption, parts.controls, parts.line, parts.drift,
  );
  const below = make(
    "div", { className: "below" }, parts.warning, parts.trouble, parts.retry, parts.note, parts.redo, parts.form,
  );
  parts.live = make("div", { className: "live" }, side, below);
  const stage = make("div", { className: "stage" }, parts.screen, parts.live);
  parts.root = make(
    "section", { className: "rivulet", "aria-label": say("stream") }, parts.cutOff, parts.idle, parts.offer, stage,
  );
  root.append(parts.root);
  return parts;
}

function screen(say) {
  const video = make("video", { muted: true, playsInline: true, "aria-label": say("picture") });
  const canvas = make("canvas", { hidden: true, role: "img", "aria-label": say("picture") });
  const phase = make("p", { className: "phase", role: "status" });
  const idle = make("p", { className: "idle", textContent: say("idle") });
  const show = make("button", { type: "button", textContent: say("show") });
  const offered = make("span");
  const offer = make("p", { className: "offer", hidden: true }, offered, show);
  return { video, canvas, phase, idle, show, offered, offer, screen: make("div", { className: "screen" }, video, canvas, phase) };
}

function position(say) {
  const hold = make("button", { type: "button", className: "hold" });
  const bar = make("input", { type: "range", min: 0, max: 0, step: 0.1, value: 0, "aria-label": say("position") });
  const time = make("span", { className: "time" });
  const newest = make("button", { type: "button", "aria-label": say("newest"), title: say("newest") });
  const strip = make("div", { className: "strip", role: "group", "aria-label": say("prompts") });
  const caption = make("p", { className: "caption" });
  return { hold, bar, time, newest, strip, caption, place: make("div", { className: "row place" }, hold, bar, time, newest) };
}

/** What is offered where a take was cut off. */
function cutOff(say) {
  const cutOffWords = make("p");
  const cutOffTold = make("p", { className: "trouble", role: "alert" });
  const goOn = make("button", { type: "button", className: "main", textContent: say("goOn") });
  const notNow = make("button", { type: "button", textContent: say("notNow") });
  const row = make("div", { className: "row" }, goOn, notNow);
  const cutOff = make("div", { className: "cut-off", hidden: true }, cutOffWords, row, cutOffTold);
  return { cutOffWords, cutOffTold, goOn, notNow, cutOff };
}

function drift(say) {
  const svg = document.createElementNS(SVG, "svg");
  const shape = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": say("driftShown") };
  for (const [name, value] of Object.entries(shape)) svg.setAttribute(name, value);
  const curves = Object.fromEntries(CURVES.map((name) => {
    const curve = document.createElementNS(SVG, "polyline");
    curve.setAttribute("class", name);
    svg.append(curve);
    return [name, curve];
  }));
  const named = (name) => make("span", { className: name, textContent: say(`drift${name[0].toUpperCase()}${name.slice(1)}`) });
  const summary = make("summary", { title: say("driftShown") }, make("b", { textContent: say("drift") }), ...CURVES.map(named));
  return { curves, drift: make("details", { className: "drift", hidden: true, open: true }, summary, svg) };
}

function buttons(say) {
  const button = (more = {}) => make("button", { type: "button", ...more });
  const parts = {
    pause: button(), stop: button({ title: say("stopHint") }), back: button({ "aria-expanded": "false", title: say("redoHint") }), mark: button({ title: say("markHint") }),
    yield: button({ title: say("yieldHint") }),
    bell: button({ className: "bell", "aria-pressed": "false", "aria-label": say("bell"), title: say("bell") }),
    save: make("a", { textContent: say("save"), hidden: true }),
  };
  const row = { className: "row controls-row", role: "group", "aria-label": say("controls") };
  return { ...parts, controls: make("div", row, ...Object.values(parts)) };
}

/** A field of several lines: too long a text is told of, and not cut. */
function promptField(say, properties) {
  const field = make("textarea", { rows: 2, autocomplete: "off", title: say("promptKeys"), ...properties });
  sendOnEnter(field);
  return field;
}

/** Has Enter send the form of a field of several lines, and Shift+Enter break the line. */
export function sendOnEnter(field) {
  field.addEventListener("keydown", (event) => {
    // the key that ends a composition, as of Chinese, is not meant for the form
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    field.form.requestSubmit();
  });
}

function redo(say) {
  made += 1;
  const id = `rivulet-redo-${made}`;
  const redoFrom = make("label", { for: id });
  const redoPrompt = promptField(say, { id });
  const redoMode = make("select", { "aria-label": say("mode"), title: say("modeHint") });
  const seeds = SEEDS.map((seed) => make("option", { value: seed, textContent: say(`redo${seed[0].toUpperCase()}${seed.slice(1)}`) }));
  const redoSeed = make("select", { "aria-label": say("redoSeed"), title: say("redoSeed") }, ...seeds);
  const redoNumber = make("input", {
    type: "text", inputMode: "numeric", autocomplete: "off", "aria-label": say("redoNumber"), hidden: true, className: "number",
  });
  const redoGo = make("button", { className: "main", textContent: say("redoGo") });
  const redoCancel = make("button", { type: "button", textContent: say("cancel") });
  const redoTold = make("p", { className: "told", role: "status" });
  const row = make("div", { className: "row" }, redoPrompt, redoMode, redoSeed, redoNumber, redoGo, redoCancel);
  const form = make("form", { noValidate: true, hidden: true, className: "redo" }, redoFrom, row, redoTold);
  return { redoFrom, redoPrompt, redoMode, redoSeed, redoNumber, redoGo, redoCancel, redoTold, redo: form };
}

function form(say) {
  made += 1;
  const ids = { prompt: `rivulet-prompt-${made}`, told: `rivulet-told-${made}` };
  const prompt = promptField(say, { id: ids.prompt, "aria-describedby": ids.told });
  const mode = make("select", { "aria-label": say("mode"), title: say("modeHint") });
  const change = make("button", { className: "main", textContent: say("change") });
  const told = make("p", { id: ids.told, className: "told", role: "status" });
  const label = make("label", { for: ids.prompt, textContent: say("next") });
  const row = make("div", { className: "row" }, prompt, make("div", { className: "choices" }, mode, change));
  return { prompt, mode, change, told, form: make("form", { className: "next", noValidate: true }, label, row, told) };
}

/** Offers the switch modes that a run can do, the first as the usual one, and keeps another that was chosen. */
export function offerModes(select, modes, say) {
  if (select.dataset.modes === modes.join()) return;
  const chosen = select.selectedIndex > 0 ? select.value : "";
  select.hidden = modes.length === 1;
  select.dataset.modes = modes.join();
  const name = (mode) => say(`mode${mode[0].toUpperCase()}${mode.slice(1)}`);
  select.replaceChildren(...modes.map((m) => make("option", { value: m, textContent: name(m) })));
  if (modes.includes(chosen)) select.value = chosen;
}

/** Points a link to a file. */
export function showLink(link, href, name) {
  if (link.getAttribute("href") !== href) Object.assign(link, { href, download: name });
}

/** Shows the state line, each part as a piece that does not break. */
export function showLine(line, parts) {
  while (line.childElementCount > parts.length) line.lastElementChild.remove();
  while (line.childElementCount < parts.length) line.append(make("span"));
  parts.forEach((part, i) => put(line.children[i], part));
}

/** Draws curves, {name: points}. */
export function showCurves(curves, points) {
  for (const [name, curve] of Object.entries(curves)) {
    if (curve.getAttribute("points") !== points[name]) curve.setAttribute("points", points[name]);
  }
}
