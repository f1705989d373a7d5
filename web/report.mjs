// A text in a node, to read, select and copy; in an element of any page.

import { copyText } from "./clipboard.mjs";
import { loadStyle, make, put } from "./view.mjs";
import { speaker } from "./words.mjs";

const SAID_MILLISECONDS = 2000; // how long the button says that it copied

/** Mounts the panel. `language` and `theme()` as the preview's. Returns {show({text, wrong} or null), dispose()}. */
export function mountReport(element, options) {
  return new Report(element, options);
}

class Report {
  constructor(element, { language = "en", theme = () => "" }) {
    Object.assign(this, { say: speaker(language), theme, text: "" });
    loadStyle();
    loadStyle("./report.css");
    this.lines = make("div", { className: "lines", tabIndex: 0, role: "document" });
    this.hint = make("p", { className: "hint" });
    this.copy = make("button", { type: "button", className: "copy", textContent: this.say("reportCopy") });
    this.root = make(
      "section", { className: "rivulet report", "aria-label": this.say("report") }, this.copy, this.hint, this.lines,
    );
    element.append(this.root);
    this.copy.addEventListener("click", () => this.take());
    // the page around takes keys for its shortcuts, and a copy for a copy of its nodes
    for (const event of ["keydown", "copy"]) this.root.addEventListener(event, (each) => each.stopPropagation());
    this.show(null);
  }

  show(report) {
    this.root.dataset.theme = this.theme();
    this.text = report?.text ?? "";
    this.root.classList.toggle("wrong", Boolean(report?.wrong));
    this.lines.replaceChildren(...this.text.split("\n").map((line) => make("p", { textContent: line })));
    this.lines.hidden = this.copy.hidden = !this.text;
    put(this.hint, this.text ? "" : this.say("reportHint"));
  }

  async take() {
    const done = await copyText(this.text);
    if (!done) getSelection().selectAllChildren(this.lines);
    put(this.copy, this.say(done ? "reportCopied" : "reportNotCopied"));
    clearTimeout(this.back);
    this.back = setTimeout(() => put(this.copy, this.say("reportCopy")), SAID_MILLISECONDS);
  }

  dispose() {
    clearTimeout(this.back);
    this.root.remove();
  }
}
