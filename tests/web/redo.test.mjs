import assert from "node:assert/strict";
import { test } from "node:test";

import { answered, newBook, newestTaken, settled, wished } from "../../web/controls.mjs";
import { isGoingBack, redoOf, redoProblem, seedOf, wayBack } from "../../web/redo.mjs";
import { state } from "./states.mjs";

const WAS = "a red circle";
const typed = (more = {}) => ({ prompt: WAS, mode: "cut", seed: "same", number: "", ...more });

test("a running stream goes back by itself, one that has ended through the queue", () => {
  assert.equal(wayBack(state(), true), "now");
  assert.equal(wayBack(state({ can_redo: false }), true), "");
  for (const phase of ["ended", "failed"]) {
    assert.equal(wayBack(state({ phase }), true), "later");
    assert.equal(wayBack(state({ phase }), false), "", "this page cannot queue");
    assert.equal(wayBack(state({ phase, take: "" }), true), "");
    assert.equal(wayBack(state({ phase, frames: 0 }), true), "");
  }
});

test("what was left as it was is not sent, so that later prompts and the seed stay", () => {
  assert.deepEqual(redoOf(typed(), WAS, 1.5, state()), { frame: 24 });
  assert.deepEqual(redoOf(typed({ prompt: ` ${WAS} ` }), WAS, 1.5, state()), { frame: 24 });
  const other = redoOf(typed({ prompt: " a blue square", seed: "number", number: " 12 " }), WAS, 1.5, state());
  assert.deepEqual(other, { frame: 24, prompt: "a blue square", mode: "cut", seed: "12" });
});

test("a new seed is a whole number, and another one each time", () => {
  const seeds = Array.from({ length: 4 }, () => redoOf(typed({ seed: "new" }), WAS, 0, state()).seed);
  assert.ok(seeds.every((seed) => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32));
  assert.equal(new Set(seeds).size, 4);
});

test("a run whose prompt is fixed takes a seed alone", () => {
  const fixed = state({ modes: [] });
  assert.deepEqual(redoOf(typed({ prompt: "else", seed: "number", number: "3" }), WAS, 0, fixed), { frame: 0, seed: "3" });
  assert.equal(redoProblem(typed({ prompt: "" }), WAS, fixed), "");
});

test("what cannot be sent is told before", () => {
  assert.equal(redoProblem(typed(), WAS, state()), "");
  assert.equal(redoProblem(typed(), WAS, state({ longest_prompt: 3 })), "", "as it was it is not sent");
  assert.equal(redoProblem(typed({ prompt: " " }), WAS, state()), "promptEmpty");
  assert.equal(redoProblem(typed({ prompt: "else" }), WAS, state({ longest_prompt: 3 })), "promptLong");
  for (const number of ["", "-1", "1.5", "1e3", "18446744073709551616", "99999999999999999999", "٣"]) {
    assert.equal(redoProblem(typed({ seed: "number", number }), WAS, state()), "redoSeedWrong", number);
    assert.equal(seedOf(number), null);
  }
  assert.equal(seedOf(" 018446744073709551615"), null, "21 digits");
  assert.equal(seedOf(" 18446744073709551615 "), "18446744073709551615");
  assert.equal(seedOf("007"), "7");
});

test("a redo is under way until the stream it ends has ended, and then known as the cause", () => {
  const told = { do: "redo", frame: 24 };
  let book = answered(wished(newBook("me"), told, 0), 1, { status: 202 }, 0);
  assert.ok(isGoingBack(book));
  book = settled(book, state({ phase: "ended" }));
  assert.ok(!isGoingBack(book));
  assert.equal(newestTaken(book, "redo").frame, 24);
  assert.equal(newestTaken(newBook("me"), "redo"), null);
  const refused = answered(wished(newBook("me"), told, 0), 1, { status: 400, error: "No." }, 0);
  assert.equal(newestTaken(refused, "redo"), null);
});
