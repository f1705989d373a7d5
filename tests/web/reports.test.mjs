import assert from "node:assert/strict";
import { test } from "node:test";

import { placeOf } from "../../web/place.mjs";
import { failure, isFrom, lastReport, queued, said } from "../../web/reports.mjs";

const ANYONE = { client: "tab", apart: false };
const APART = { client: "tab", apart: true };
const PLACE = { node: 4, path: "4", workflow: "w" };
const run = (number, workflow = "w", client = "tab") => [
  number, `id${number}`, {}, { client_id: client, extra_pnginfo: { workflow: { id: workflow } } }, ["4"],
];
const entry = (number, outputs, more = {}, ...from) => ({ prompt: run(number, ...from), outputs, status: { messages: [] }, ...more });
const text = (...lines) => ({ text: lines });

test("a report is the text that a node gave, several parts as lines", () => {
  assert.deepEqual(said(text("one", "two")), { text: "one\ntwo", wrong: false });
  assert.deepEqual([said({ images: [] }), said(null)], [null, null]);
  assert.deepEqual(failure({ exception_message: "Plan Stream: no.\n" }), { text: "Plan Stream: no.", wrong: true });
});

test("a run belongs to the workflow it was queued from, and to its page where users are apart", () => {
  const from = (whose, ...of) => isFrom(run(1, ...of), PLACE, whose);
  assert.ok(from(ANYONE) && from(ANYONE, "w", "another tab") && from(APART));
  assert.ok(!from(ANYONE, "other") && !from(APART, "w", "another tab") && !isFrom(undefined, PLACE, ANYONE));
});

test("a workflow without a name knows its runs by the page that queued them", () => {
  const unnamed = { ...PLACE, workflow: "" };
  const zero = "00000000-0000-0000-0000-000000000000";
  assert.ok(isFrom(run(1, zero), unnamed, ANYONE));
  assert.ok(!isFrom(run(1, zero, "another tab"), unnamed, ANYONE) && !isFrom(run(1, zero), PLACE, ANYONE));
  assert.ok(isFrom([1, "id", {}, { client_id: "tab" }], unnamed, ANYONE));
  assert.ok(!isFrom(null, unnamed, { client: undefined, apart: false }));
});

test("the newest report of the workflow comes back, whatever ran since", () => {
  const history = {
    b: entry(7, { 4: text("newest") }), a: entry(2, { 4: text("old") }), c: entry(9, { 5: text("another node") }),
    d: entry(11, { 4: text("another workflow") }, {}, "other"),
  };
  assert.equal(lastReport(history, PLACE, ANYONE).text, "newest");
  assert.equal(lastReport(history, { ...PLACE, path: "12:4" }, ANYONE), null);
  assert.deepEqual([lastReport(null, PLACE, ANYONE), lastReport({}, PLACE, ANYONE)], [null, null]);
});

test("a node that failed in the newest run shows why", () => {
  const told = (node_id) => ({ status: { messages: [["execution_error", { node_id, exception_message: "too big" }]] } });
  const history = (node) => ({ a: entry(1, { 4: text("fits") }), b: entry(2, {}, told(node)) });
  assert.deepEqual(lastReport(history("4"), PLACE, ANYONE), { text: "too big", wrong: true });
  assert.equal(lastReport(history("5"), PLACE, ANYONE).text, "fits");
});

test("a run is found in the queue", () => {
  const queue = { queue_running: [run(1)], queue_pending: [run(2)] };
  assert.deepEqual(["id1", "id2", "id3"].map((id) => queued(queue, id)?.[0] ?? null), [1, 2, null]);
  assert.equal(queued(null, "id1"), null);
});

test("a node is found by its way through subgraphs, and a graph without a name has none", () => {
  const root = { id: "w" };
  const inner = { id: 7, graph: { rootGraph: root } };
  Object.assign(root, { nodes: [{ id: 3 }, { id: 12, subgraph: { nodes: [inner] } }] });
  assert.deepEqual(placeOf(inner), { node: 7, path: "12:7", workflow: "w" });
  root.id = "00000000-0000-0000-0000-000000000000";
  assert.deepEqual(placeOf({ id: 5, graph: { rootGraph: root } }), { node: 5, path: "5", workflow: "" });
});
