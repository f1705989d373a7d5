import assert from "node:assert/strict";
import { test } from "node:test";

import { Queue } from "../../web/queue.mjs";

const place = { node: "4", workflow: "w" };
const PROMPT = { 1: { class_type: "RivuletModel" }, 4: { class_type: "RivuletStream" }, "9:4": { class_type: "SaveVideo" } };

const job = (number, id, { client = "me", workflow = "w", prompt = PROMPT } = {}) => [
  number, id, prompt, { client_id: client, extra_pnginfo: { workflow: { id: workflow } } }, ["4"],
];

/** A queue that has answered once. */
async function queueOf(running, waiting = []) {
  const told = { queue_running: running, queue_pending: waiting };
  const transport = { get: async () => ({ status: 200, headers: new Headers(), json: async () => told }) };
  const queue = new Queue(transport, () => "me");
  await queue.refresh();
  return { queue, told };
}

test("a run that waits tells how many come before it, in the queue's order", async () => {
  const { queue } = await queueOf([job(1, "x", { client: "other" })], [job(4, "b"), job(2, "y", { client: "other" }), job(3, "a")]);
  assert.deepEqual(queue.next(place, "old"), { standing: "waiting", ahead: 2 });
  assert.deepEqual(queue.next(place, "a"), { standing: "waiting", ahead: 3 }, "of a run that is known the one after it");
});

test("a run that has its turn tells which node has it", async () => {
  const { queue } = await queueOf([job(1, "a")], [job(2, "b")]);
  assert.deepEqual(queue.next(place, "old"), { standing: "running", node: "", here: false });
  queue.hear("executing", "1");
  assert.deepEqual(queue.next(place, "old"), { standing: "running", node: "1", here: false });
  queue.hear("executing", { node: "4", display_node: "4", prompt_id: "a" });
  assert.deepEqual(queue.next(place, "old"), { standing: "running", node: "4", here: true });
  assert.equal(queue.next(place, "a").standing, "waiting", "its stream has begun");
  queue.hear("executing", null);
  assert.equal(queue.next(place, "old").node, "");
});

test("other pages, other workflows and other nodes are not this one's", async () => {
  const none = [
    job(1, "a", { client: "other" }), job(1, "a", { workflow: "v" }), job(1, "a", { prompt: { 5: { class_type: "RivuletStream" } } }),
    job(1, "a", { prompt: { 4: { class_type: "SaveVideo" } } }),
  ];
  for (const each of none) assert.equal((await queueOf([each])).queue.next(place, "old"), null);
  const inside = job(1, "a", { prompt: { "12:4": { class_type: "RivuletStream" } } });
  assert.ok((await queueOf([inside])).queue.next(place, "old"), "inside a subgraph");
  const unnamed = job(1, "a", { workflow: "00000000-0000-0000-0000-000000000000" });
  assert.ok((await queueOf([unnamed])).queue.next({ node: "4", workflow: "" }, "old"), "of a graph that came without an id");
});

test("a run that fails or is cancelled before it begins is forgotten, and so is a node that is not made anew", async () => {
  const { queue, told } = await queueOf([job(1, "a")], [job(2, "b")]);
  told.queue_running = [];
  queue.hear("execution_error", { prompt_id: "a" });
  await queue.asking;
  assert.equal(queue.next(place, "old").standing, "waiting");
  told.queue_pending = [];
  queue.hear("status", {});
  await queue.asking;
  assert.equal(queue.next(place, "old"), null);

  told.queue_running = [job(3, "c")];
  queue.hear("execution_cached", { prompt_id: "c", nodes: ["1", "4"] });
  await queue.asking;
  assert.equal(queue.next(place, "old"), null);
});

test("what is heard while it asks is asked for once more, and an answer that is none changes nothing", async () => {
  let asked = 0;
  const transport = {
    get: async () => {
      asked += 1;
      if (asked === 3) throw new Error("no server");
      return { status: 200, headers: new Headers(), json: async () => ({ queue_running: [job(1, "a")], queue_pending: [] }) };
    },
  };
  const queue = new Queue(transport, () => "me");
  for (let i = 0; i < 9; i += 1) queue.hear("status", {});
  await queue.asking;
  assert.equal(asked, 2, "nine events in one moment are one question, and one more for what came after it");
  queue.hear("status", {});
  await queue.asking;
  assert.equal(asked, 3);
  assert.ok(queue.next(place, "old"));
});
