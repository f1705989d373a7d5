// The form under "Redo from here": from which second, with what, and why not.

import { modesOf } from "./controls.mjs";
import { problemWords } from "./line.mjs";
import { redoOf, redoProblem } from "./redo.mjs";
import { promptAt } from "./timeline.mjs";
import { offerModes, put } from "./view.mjs";

/** `send(told)` takes what redoOf returns, and answers a sentence where that was refused. */
export class RedoForm {
  constructor(parts, say, send) {
    Object.assign(this, { parts, say, send, was: "", problem: "", busy: false });
  }

  get open() {
    return !this.parts.redo.hidden;
  }

  listen(on, place) {
    const { parts } = this;
    on(parts.redo, "submit", (event) => {
      event.preventDefault();
      this.submit(place());
    });
    on(parts.redoCancel, "click", () => this.close());
    on(parts.redo, "input", () => {
      this.problem = "";
      parts.redoNumber.hidden = parts.redoSeed.value !== "number";
    });
    on(parts.redo, "keydown", (event) => event.key === "Escape" && this.close());
  }

  /** Opens with the prompt of the second that is shown; `place` is {seconds, state}. */
  begin({ seconds, state }) {
    const { parts } = this;
    [this.was, this.problem] = [promptAt(seconds, state.prompts ?? [], state.fps), ""];
    parts.redoPrompt.value = this.was;
    parts.redo.hidden = false;
    (state.modes.length ? parts.redoPrompt : parts.redoSeed).focus();
  }

  close() {
    const { parts } = this;
    if (!this.open) return;
    parts.redo.hidden = true;
    if (parts.redo.contains(document.activeElement)) parts.back.focus();
  }

  async submit({ seconds, state }) {
    const typed = this.typed();
    const problem = redoProblem(typed, this.was, state);
    this.problem = problem && problemWords(problem, typed.prompt, state, this.say);
    if (problem || this.busy) return;
    this.busy = true;
    this.problem = (await this.send(redoOf(typed, this.was, seconds, state))) ?? "";
    this.busy = false;
    if (!this.problem) this.close();
  }

  typed() {
    const { redoPrompt, redoMode, redoSeed, redoNumber } = this.parts;
    return { prompt: redoPrompt.value, mode: redoMode.value, seed: redoSeed.value, number: redoNumber.value };
  }

  show({ seconds, state }, time) {
    const { parts, say } = this;
    // as long as nothing was typed the field follows the bar
    const here = promptAt(seconds, state.prompts ?? [], state.fps);
    if (here !== this.was && parts.redoPrompt.value === this.was) parts.redoPrompt.value = here;
    this.was = here;
    const modes = modesOf(state);
    offerModes(parts.redoMode, modes, say);
    parts.redoMode.hidden = modes.length < 2 || parts.redoPrompt.value.trim() === this.was;
    parts.redoPrompt.hidden = modes.length === 0;
    put(parts.redoFrom, say("redoFrom", { time }));
    put(parts.redoTold, this.problem || say("redoHint"));
    parts.redoTold.dataset.wrong = this.problem !== "";
    parts.redoGo.disabled = this.busy;
  }
}
