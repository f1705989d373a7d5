// The elements of the player: its buttons, where the file lies, the prompts over the video. Nothing is decided here.

import { make, put } from "./view.mjs";

const LEAST_WORDS = 64; // pixels of a span in which a prompt can be read
const LEAST_NUMBER = 16; // pixels in which its number can

/** Adds the player's elements to those of the widget, and to its page. */
export function addPlayer(parts, say) {
  const button = (name, key, more = {}) => make("button", {
    type: "button", className: `icon ${name}`, "aria-label": say(name), title: say(name), "aria-keyshortcuts": key, ...more,
  });
  Object.assign(parts, {
    again: button("again", "Home"), secondBack: button("secondBack", "ArrowLeft"), secondOn: button("secondOn", "ArrowRight"),
    loop: button("loop", "L", { "aria-pressed": "false" }), full: button("full", "F", { "aria-pressed": "false" }),
  });
  for (const name of ["hold", "newest"]) parts[name].classList.add("icon", name);
  parts.place.prepend(parts.again, parts.secondBack, parts.hold, parts.secondOn);
  parts.place.append(parts.loop);
  parts.screen.append(parts.full);
  Object.assign(parts.screen, { tabIndex: 0, role: "group", ariaLabel: say("screen") });
  Object.assign(parts, prompts(say), saved(say));
  parts.caption.tabIndex = 0; // a long prompt can be scrolled
  const captions = make("div", { className: "row captions" });
  parts.caption.replaceWith(captions, parts.list);
  captions.append(parts.caption, parts.all);
  parts.controls.after(parts.saved);
}

function prompts(say) {
  const list = make("ol", { className: "prompt-list", hidden: true, "aria-label": say("prompts") });
  return { all: make("button", { type: "button", className: "all", hidden: true, "aria-expanded": "false" }), list };
}

function saved(say) {
  const path = make("span", { className: "path" });
  const copy = make("button", { type: "button", textContent: say("copyPath") });
  const open = make("a", { target: "_blank", rel: "noopener", textContent: say("openFile"), title: say("openFileHint") });
  const copied = make("span", { className: "copied", role: "status" });
  return { path, copy, open, copied, saved: make("div", { className: "row saved", hidden: true }, path, copy, open, copied) };
}

/**
 * Shows prompts as spans; existing ones are kept, so that the keyboard's place is not lost. `words` tells a span whole.
 * Returns whether all of them can be read there.
 */
export function showSpans(strip, spans, at, words) {
  while (strip.childElementCount > spans.length) strip.lastElementChild.remove();
  while (strip.childElementCount < spans.length) strip.append(make("button", { type: "button" }));
  const buttons = [...strip.children];
  const current = spans.findLastIndex((span) => at >= span.from);
  const focused = buttons.indexOf(document.activeElement);
  const reached = focused < 0 ? Math.max(0, current) : focused;
  const labels = spans.map((span, i) => labelOf(span.prompt, i + 1, (strip.clientWidth * span.width) / 100));
  spans.forEach((span, i) => {
    const button = buttons[i];
    Object.assign(button.style, { left: `${span.left}%`, width: `${span.width}%` });
    put(button, labels[i]);
    const told = words(span, i + 1);
    if (button.title !== told) Object.assign(button, { title: told, ariaLabel: told });
    button.dataset.from = span.from;
    button.tabIndex = i === reached ? 0 : -1;
    button.setAttribute("aria-current", i === current);
  });
  return strip.clientWidth === 0 || labels.every((label, i) => label === firstLine(spans[i].prompt));
}

/** What can be read in so many pixels: the prompt's beginning, its number, or nothing. */
export function labelOf(prompt, number, pixels) {
  if (pixels >= LEAST_WORDS) return firstLine(prompt);
  return pixels >= LEAST_NUMBER + 6 * (String(number).length - 1) ? String(number) : "";
}

function firstLine(prompt) {
  return prompt.trim().split("\n", 1)[0];
}

/** Shows all prompts one below the other, each as a button that goes to its beginning. */
export function showList(list, spans, at, words) {
  while (list.childElementCount > spans.length) list.lastElementChild.remove();
  while (list.childElementCount < spans.length) list.append(make("li", {}, make("button", { type: "button" })));
  spans.forEach((span, i) => {
    const button = list.children[i].firstElementChild;
    put(button, words(span, i + 1));
    button.dataset.from = span.from;
    button.setAttribute("aria-current", at >= span.from && at < span.to);
  });
}

/** The end of a path: its file and the folder that it is in. */
export function shortPath(path) {
  const steps = path.split(/(?<=[\\/])/);
  return steps.length > 2 ? `…${path.at(steps.slice(0, -2).join("").length - 1)}${steps.slice(-2).join("")}` : path;
}
