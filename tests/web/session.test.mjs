import assert from "node:assert/strict";
import { test } from "node:test";

import {
  asksForList, isGivenAgain, isGone, isHere, knownPrompts, lacksPrompts, merged, othersStream, ownStream, pollRest,
} from "../../web/session.mjs";
import { event, state } from "./states.mjs";

const prompts = (...texts) => texts.map((prompt, block) => ({ prompt, mode: "cut", block, first_frame: 12 * block }));

test("messages in any order, late or twice, end in the same state", () => {
  const messages = [
    state({ sequence: 1, frames: 9 }), event({ sequence: 2, frames: 21 }), event({ sequence: 3, frames: 33 }),
  ];
  const orders = [[0, 1, 2], [2, 1, 0], [1, 0, 2, 2, 1], [2, 0, 1, 0], [0, 2, 1]];
  for (const order of orders) {
    const known = order.map((i) => messages[i]).reduce(merged, null);
    assert.equal(known.sequence, 3, `order ${order}`);
    assert.equal(known.frames, 33, `order ${order}`);
  }
});

test("an event keeps the prompts that a poll brought", () => {
  const known = merged(merged(null, state({ sequence: 5 })), event({ sequence: 6, block: 4 }));
  assert.equal(known.block, 4);
  assert.equal(known.prompts[0].prompt, "a red circle");
  assert.equal(lacksPrompts(known), false);
});

test("an event that counts more prompts asks for a poll, which then counts even at the same number", () => {
  const before = merged(merged(null, state()), event({ sequence: 6, prompt_count: 2 }));
  assert.equal(lacksPrompts(before), true);
  const after = merged(before, state({ sequence: 6, prompt_count: 2, prompts: prompts("a", "b") }));
  assert.equal(lacksPrompts(after), false);
  assert.equal(after.prompts.length, 2);
});

test("prompts that are known are told once, and the newest 500 stay", () => {
  const of = (from, to) => prompts(...Array.from({ length: to - from }, (_, i) => String(from + i)));
  const told = (sequence, from, to) => state({ sequence, prompt_count: to, prompts: of(from, to), prompts_before: from });
  assert.equal(knownPrompts(event()), 0);
  const texts = (known) => known.prompts.map(({ prompt }) => prompt);
  const first = merged(null, told(1, 3, 500)); // the first three were more than the server lists
  assert.equal(knownPrompts(first), 500);
  for (const from of [500, 499, 300, 3]) {
    const next = merged(first, told(2, from, 502));
    assert.deepEqual(texts(next), texts({ prompts: of(3, 502) }), `from ${from}`);
    assert.equal(lacksPrompts(next), false);
  }
  const later = merged(first, told(2, 500, 600));
  assert.deepEqual([later.prompts.length, texts(later)[0], texts(later).at(-1)], [500, "100", "599"]);
  assert.deepEqual(texts(merged(later, told(3, 600, 600))), texts(later));
});

test("a page that hears an event first asks for the rest and takes it", () => {
  const heard = merged(null, event());
  assert.equal(lacksPrompts(heard), true);
  const whole = merged(heard, state());
  assert.equal(lacksPrompts(whole), false);
  assert.equal(merged(whole, event()), whole, "a repeated event changes nothing");
});

test("a later stream of the node takes over, an earlier one does not", () => {
  const known = merged(null, state({ session: "b", begun: 200, sequence: 2 }));
  assert.equal(merged(known, event({ session: "a", begun: 100, sequence: 90 })), known);
  const next = merged(known, event({ session: "c", begun: 300, sequence: 1 }));
  assert.equal(next.session, "c");
  assert.equal(next.prompts, undefined, "prompts of the old take are not shown with the new one");
});

test("a running stream is asked for often, others seldom, a silent server ever more seldom", () => {
  assert.equal(pollRest(state(), true, 0), 2);
  assert.equal(pollRest(state({ phase: "paused" }), true, 0), 2);
  for (const phase of ["ended", "failed"]) assert.equal(pollRest(state({ phase }), true, 0), 15);
  assert.equal(pollRest(state(), false, 0), 15);
  assert.equal(pollRest(null, true, 0), 15);
  assert.equal(pollRest(state(), true, 0, { busy: 0.5 }), 0.5, "where no event tells");
  assert.equal(pollRest(state(), true, 1, { busy: 0.5 }), 2);
  const awaited = { awaited: true };
  assert.equal(pollRest(state({ phase: "ended" }), true, 0, awaited), 2, "another one is to follow");
  assert.equal(pollRest(null, true, 0, awaited), 2);
  assert.equal(pollRest(null, false, 0, awaited), 15);
  assert.deepEqual([1, 2, 3, 4, 9].map((lost) => pollRest(state(), true, lost)), [2, 4, 8, 15, 15]);
  assert.deepEqual([0, 3, 4].map(isGone), [false, false, true]);
});

test("ids are compared as texts, and a path in subgraphs by its last step", () => {
  const isNode = (told, node) => isHere(state({ node: told }), { node, workflow: "w" });
  assert.ok(isNode("7", 7));
  assert.ok(isNode("12:7", "7"));
  assert.ok(isNode("12:7", "12:7"));
  assert.ok(!isNode("17", "7"));
  assert.ok(!isNode("12:7", "13:7"));
  assert.ok(!isNode("7", "12:7"));
});

test("a node of the same id in another workflow is another node", () => {
  assert.ok(!isHere(state({ workflow: "x" }), { node: 7, workflow: "w" }));
  assert.ok(isHere(state({ workflow: "" }), { node: 7, workflow: "w" }), "a run that names none");
});

const list = [
  state({ session: "a", begun: 1 }), state({ session: "b", begun: 3 }), state({ session: "c", begun: 9, node: "8" }),
  state({ session: "d", begun: 8, workflow: "x" }), state({ session: "e", begun: 7 }),
];
const place = { node: 7, workflow: "w" };

test("the latest stream of a node is found again after the page was loaded anew, and never another client's", () => {
  const told = { streams: list, own: ["a", "b", "c", "d"] };
  assert.equal(ownStream(place, told).session, "b");
  assert.equal(ownStream({ ...place, node: 9 }, told), null);
  assert.equal(ownStream(place, { streams: list, own: [] }), null);
});

test("what another client makes with this node is offered, and of what it made the last video", () => {
  assert.equal(othersStream(place, { streams: list, own: ["a", "b"] }).session, "e");
  assert.equal(othersStream(place, { streams: list, own: ["a", "b", "e"] }), null);
  const made = [
    state({ session: "f", begun: 20, phase: "ended", video: true }), state({ session: "g", begun: 30, phase: "ended", video: true }),
    state({ session: "h", begun: 40, phase: "failed" }),
  ];
  assert.equal(othersStream(place, { streams: made, own: [] }).session, "g");
  assert.equal(othersStream(place, { streams: made, own: ["g"] }).session, "f");
  assert.equal(othersStream(place, { streams: [...made, ...list], own: [] }).session, "e", "what runs comes first");
  assert.equal(othersStream(place, { streams: [made[2]], own: [] }), null, "it left nothing");
  assert.equal(othersStream(place, { streams: [state({ workflow: "" })], own: [] }), null, "it may be any workflow's");
});

test("a stream that a run was given once more is shown where that run was queued, before later ones", () => {
  const streams = [state({ session: "a", begun: 1, workflow: "x" }), state({ session: "b", begun: 3 })];
  const given = [{ session: "a", workflow: "w", at: 5 }];
  assert.equal(ownStream(place, { streams, own: ["a", "b"], given }).session, "a");
  assert.equal(ownStream(place, { streams, own: [], given }).session, "a", "in a page that made none");
  assert.equal(ownStream({ ...place, node: 8 }, { streams, own: [], given }), null);
  assert.equal(ownStream({ ...place, workflow: "v" }, { streams, own: [], given }), null);
  assert.equal(ownStream(place, { streams, own: ["b"], given: [{ ...given[0], at: 2 }] }).session, "b", "that was before");
});

test("what a run was given again takes over from what was made later, until another one begins", () => {
  const known = merged(null, state({ session: "b", begun: 3, phase: "ended" }));
  const again = merged(known, event({ session: "a", begun: 1, phase: "ended", given: 5 }));
  assert.deepEqual([again.session, isGivenAgain(known), isGivenAgain(again)], ["a", false, true]);
  const whole = merged(again, state({ session: "a", begun: 1, phase: "ended" }));
  assert.ok(isGivenAgain(whole) && whole.prompts.length === 1, "the stream's own state does not tell of it");
  assert.equal(merged(whole, event({ session: "b", begun: 3, phase: "ended" })), whole);
  assert.equal(merged(whole, event({ session: "c", begun: 9 })).session, "c");
});

test("a stream that is shown already, and is given again, is told so once", () => {
  const known = merged(null, state({ phase: "ended" }));
  const again = merged(known, event({ phase: "ended", given: 200 }));
  assert.ok(isGivenAgain(again) && again.prompts === known.prompts);
  assert.equal(merged(again, event({ phase: "ended", given: 200 })), again);
  assert.equal(merged(again, event({ phase: "ended" })), again);
});

test("the list is asked for until a stream is found, and after its end for the next one", () => {
  assert.ok(asksForList(null));
  assert.ok(!asksForList(merged(null, state())));
  assert.ok(asksForList(merged(null, state({ phase: "ended" }))));
  assert.ok(!asksForList(merged(null, event({ phase: "ended" }))), "its prompts are still to come");
});
