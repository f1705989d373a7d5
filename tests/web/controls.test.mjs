import assert from "node:assert/strict";
import { test } from "node:test";

import {
  answered, isUnderWay, modesOf, newBook, newestFailure, newestPrompt, newViewer, othersPending, promptProblem, settled,
  toSend, wished,
} from "../../web/controls.mjs";
import { state } from "./states.mjs";

const prompt = { do: "prompt", prompt: "a blue square", mode: "cut" };
const told = (number, outcome, more = {}) => ({
  viewer: "me", number, outcome, sentence: "", block: 4, first_frame: 45, ...more,
});
const sent = (...wishes) => wishes.reduce((book, wish) => wished(book, wish, 0), newBook("me"));

test("messages are numbered from 1 and sent one after another", () => {
  let book = sent({ do: "pause" }, prompt);
  assert.deepEqual(toSend(book, 0), { viewer: "me", number: 1, do: "pause" });
  book = answered(book, 1, { status: 202 }, 0);
  assert.deepEqual(toSend(book, 0), { viewer: "me", number: 2, ...prompt });
  book = answered(book, 2, { status: 202 }, 0);
  assert.equal(toSend(book, 0), null);
});

test("a wish is under way until a state acknowledges it, and not by another viewer's number", () => {
  let book = answered(sent({ do: "pause" }), 1, { status: 202 }, 0);
  assert.ok(isUnderWay(book, "pause"));
  book = settled(book, state({ acknowledged: [told(1, "done", { viewer: "other" })] }));
  assert.ok(isUnderWay(book, "pause"));
  book = settled(book, state({ acknowledged: [told(1, "done")] }));
  assert.ok(!isUnderWay(book, "pause"));
  assert.ok(!isUnderWay(book, "stop"));
});

test("an acknowledgement that overtakes the answer settles too", () => {
  let book = settled(sent(prompt), state({ acknowledged: [told(1, "done")] }));
  assert.equal(newestPrompt(book).standing, "done");
  assert.equal(newestPrompt(book).frame, 45);
  book = answered(book, 1, { status: 202 }, 0);
  assert.equal(newestPrompt(book).standing, "done");
});

test("a refusal carries the server's sentence, by answer or by state", () => {
  const sentence = "This model knows no dogs; name a circle, square or triangle.";
  const byAnswer = answered(sent(prompt), 1, { status: 400, error: sentence }, 0);
  const byState = settled(sent(prompt), state({ acknowledged: [told(1, "refused", { sentence })] }));
  for (const book of [byAnswer, byState]) {
    assert.equal(newestPrompt(book).standing, "refused");
    assert.equal(newestPrompt(book).sentence, sentence);
    assert.equal(toSend(book, 9), null);
  }
});

test("an unanswered message is sent again with its number, more and more seldom, then given up", () => {
  let book = sent(prompt);
  let now = 0;
  const dues = [];
  for (let i = 0; i < 5; i += 1) {
    assert.equal(toSend(book, now).number, 1);
    book = answered(book, 1, { status: i % 2 ? 503 : 0 }, now);
    const entry = newestPrompt(book);
    if (entry.standing === "sending") assert.equal(toSend(book, entry.due - 0.01), null);
    dues.push(entry.due - now);
    now = entry.due;
  }
  assert.deepEqual(dues.slice(0, 4), [1, 2, 4, 8]);
  assert.equal(newestPrompt(book).standing, "lost");
  assert.equal(toSend(book, 999), null);
});

test("the end of the stream settles what waits: a stop is done, a prompt came too late", () => {
  const book = settled(sent({ do: "stop" }, prompt), state({ phase: "ended" }));
  assert.ok(!isUnderWay(book, "stop"));
  assert.equal(newestFailure(book), null);
  assert.equal(newestPrompt(book).standing, "ended");
});

test("a redo and a yield are what a stream ends by", () => {
  const book = settled(sent({ do: "redo", frame: 9 }, { do: "yield" }), state({ phase: "ended" }));
  assert.deepEqual(book.wishes.map((each) => each.standing), ["done", "done"]);
});

test("a failure shows until the next wish", () => {
  let book = answered(sent({ do: "pause" }), 1, { status: 409, error: "It ended." }, 0);
  assert.equal(newestFailure(book).sentence, "It ended.");
  book = wished(book, prompt, 0);
  assert.equal(newestFailure(book).sentence, "It ended.");
  book = wished(book, { do: "resume" }, 0);
  assert.equal(newestFailure(book), null);
});

test("prompts of other pages that wait are told, own ones are not", () => {
  const pending = [{ viewer: "me", number: 1, ...prompt }, { viewer: "x", number: 1, do: "pause" }, { viewer: "x", number: 2, ...prompt }];
  assert.deepEqual(othersPending(newBook("me"), state({ pending })), [pending[2]]);
});

test("only modes that the run can do are offered, the gentle one first", () => {
  assert.deepEqual(modesOf(state({ modes: ["cut", "recache", "unheard"] })), ["recache", "cut"]);
  assert.deepEqual(modesOf(state({ modes: [] })), []);
});

test("the mode that the run's own prompts change by is offered before the others", () => {
  assert.deepEqual(modesOf(state({ modes: ["cut", "recache", "smooth"], switch: "smooth" })), ["smooth", "recache", "cut"]);
  assert.deepEqual(modesOf(state({ modes: ["cut"], switch: "smooth" })), ["cut"]);
});

test("every widget is a viewer of its own, also one of a duplicated tab", () => {
  assert.match(newViewer(), /^[0-9a-f]{8}$/);
  assert.notEqual(newViewer(), newViewer());
});

test("an empty or endless prompt is not sent", () => {
  const running = state({ longest_prompt: 12 });
  assert.equal(promptProblem("a red circle", running), "");
  assert.equal(promptProblem("  ", running), "promptEmpty");
  assert.equal(promptProblem("a red circle.", running), "promptLong");
  assert.equal(promptProblem("🌊".repeat(12), running), "", "letters are counted as the server counts them");
  assert.equal(promptProblem("🌊".repeat(13), running), "promptLong");
});
