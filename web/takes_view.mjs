// The elements of the list of takes, and how they show what they are given. Nothing is decided here.

import { make, put } from "./view.mjs";

/** Builds the list into `root` and returns its elements by name. */
export function buildTakes(root, say) {
  const chosen = make("p", { className: "chosen", role: "status" });
  const refresh = make("button", { type: "button", textContent: say("takesRefresh") });
  const none = make("p", { className: "none" });
  const list = make("div", { className: "list", role: "listbox", "aria-label": say("takes") });
  const head = make("div", { className: "head" }, chosen, refresh);
  const section = make("section", { className: "rivulet takes", "aria-label": say("takes") }, head, none, list);
  root.append(section);
  return { root: section, chosen, refresh, none, list };
}

/**
 * Shows one element a row, in their order; those that stay keep the keyboard's place and their picture. `actions` is
 * {asked, told}: the name of the take that is about to be deleted, and {name, words} of what was last done with one.
 */
export function showRows(list, rows, chosen, pictureOf, actions, say) {
  const known = new Map([...list.children].map((each) => [each.dataset.name, each]));
  const entries = rows.map((row) => known.get(row.name) ?? emptyEntry(row.name, say));
  for (const each of list.children) if (!entries.includes(each)) each.remove();
  entries.forEach((entry, i) => {
    if (list.children[i] !== entry) list.insertBefore(entry, list.children[i] ?? null);
    const row = rows[i];
    showRow(entry.firstChild, row, pictureOf(row));
    entry.firstChild.setAttribute("aria-selected", row.name === chosen);
    showActions(entry, row, actions);
  });
  const elements = entries.map((entry) => entry.firstChild);
  // one of them takes the keyboard; arrows lead to the others
  const way = elements.find((each) => each === document.activeElement) ?? elements.find((each) => each.dataset.name === chosen);
  for (const each of elements) each.tabIndex = each === (way ?? elements[0]) ? 0 : -1;
}

function emptyEntry(name, say) {
  const action = (name) => make("button", { type: "button", className: name, textContent: say(name) });
  const actions = make("div", { className: "actions" }, action("takeTimeline"), action("takeDelete"));
  const question = make("span", { textContent: say("takeDeleteAsked") });
  const answers = ["takeDeleteAll", "takeDeleteSnapshots", "takeKeep"].map(action);
  const ask = make("div", { className: "actions ask" }, question, ...answers);
  const told = make("p", { className: "told", role: "status" });
  const entry = make("div", { className: "entry", role: "none" }, emptyRow(name), actions, ask, told);
  entry.dataset.name = name;
  return entry;
}

function showActions(entry, row, { asked, told }) {
  const at = (part) => entry.querySelector(`.${part}`);
  at("ask").hidden = asked !== row.name;
  at("actions").hidden = asked === row.name;
  at("takeTimeline").hidden = row.prompt === "";
  at("takeDelete").hidden = !row.deletable;
  put(at("told"), told.name === row.name ? told.words : "");
}

function emptyRow(name) {
  const part = (part, ...children) => make("span", { className: part }, ...children);
  // what is hidden is never loaded where it is lazy, so it is only not to be seen
  const image = make("img", { alt: "", loading: "lazy", className: "unseen", draggable: false });
  image.addEventListener("load", () => image.classList.remove("unseen"));
  image.addEventListener("error", () => image.classList.add("unseen"));
  const title = part("title", part("folder"), part("file"));
  const facts = part("facts", part("standing"), part("rest"));
  const about = part("about", title, facts, part("prompt"), part("reason"));
  const element = make("button", { type: "button", className: "take", role: "option" }, part("shot", image), about);
  element.dataset.name = name;
  return element;
}

function showRow(element, row, picture) {
  const at = (part) => element.querySelector(`.${part}`);
  put(at("folder"), row.folder);
  put(at("file"), row.file);
  put(at("standing"), row.standingWords);
  at("standing").dataset.standing = row.standing;
  put(at("rest"), ["", ...row.facts].join(" · "));
  put(at("prompt"), row.prompt);
  put(at("reason"), row.reason);
  at("reason").dataset.standing = row.standing;
  element.setAttribute("aria-disabled", !row.able);
  element.dataset.standing = row.standing;
  const told = [row.name, row.prompt, row.reason].filter(Boolean).join("\n");
  if (element.title !== told) element.title = told;
  const image = at("shot").firstChild;
  if (image.getAttribute("src") !== picture) image.src = picture;
}
