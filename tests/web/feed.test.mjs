import assert from "node:assert/strict";
import { test } from "node:test";

import { Feed } from "../../web/feed.mjs";
import { event, state } from "./states.mjs";

/** A feed of node 7 whose server answers {path: [status, body]}; `asked` lists what it was asked. */
function feedOf(answers, more = {}) {
  const asked = [];
  const changes = [];
  const transport = {
    async get(path) {
      asked.push(path);
      const [status, body] = answers[path] ?? [0];
      if (status === 0) throw new Error("no answer");
      return new Response(JSON.stringify(body), { status, headers: { Date: more.date ?? new Date().toUTCString() } });
    },
  };
  const view = { client: () => "me", place: () => ({ node: "7", workflow: "w" }), seen: () => true };
  const feed = new Feed(transport, view, (before) => changes.push(before?.session ?? null));
  return { feed, asked, changes };
}

const LIST = "/rivulet/streams?client=me";
const list = (...streams) => [200, { streams, own: streams.map((each) => each.session) }];
const after = async (feed) => {
  feed.due = 0;
  return feed.tick();
};

test("the list is asked for until a stream is found, then the stream", async () => {
  const { feed, asked, changes } = feedOf({ [LIST]: list(event()), "/rivulet/stream/a?prompts=0": [200, state({ sequence: 6 })] });
  assert.equal(await after(feed), true);
  assert.equal(await after(feed), false);
  assert.deepEqual([asked, changes, feed.state.sequence], [[LIST, "/rivulet/stream/a?prompts=0"], [null, "a"], 6]);
});

test("a question that is not due, or is being asked, is not asked", async () => {
  const { feed, asked } = feedOf({ [LIST]: list() });
  await Promise.all([feed.tick(), feed.tick()]);
  await feed.tick();
  assert.deepEqual(asked, [LIST]);
});

test("a stream that the server forgot has failed, and the list tells what follows", async () => {
  const answers = { [LIST]: list(event()), "/rivulet/stream/a?prompts=0": [404, { error: "No." }] };
  const { feed, asked, changes } = feedOf(answers);
  await after(feed);
  await after(feed);
  assert.deepEqual([feed.state.phase, feed.state.forgotten, feed.state.take], ["failed", true, ""]);
  assert.ok(feed.idle && !feed.gone);
  answers[LIST] = list(event({ session: "b", begun: 200 }));
  await after(feed);
  assert.deepEqual([feed.state.session, changes.at(-1), asked.at(-1), feed.idle], ["b", "a", LIST, false]);
});

test("four questions without an answer, and the server is taken for gone", async () => {
  const answers = { [LIST]: list(event()) };
  const { feed } = feedOf(answers);
  await after(feed);
  for (let i = 0; i < 4; i += 1) {
    assert.equal(feed.gone, false);
    await after(feed);
  }
  assert.equal(feed.gone, true);
  answers["/rivulet/stream/a?prompts=0"] = [200, state({ sequence: 9 })];
  await after(feed);
  assert.equal(feed.gone, false);
});

test("an awaited stream is looked for in haste until it has begun", async () => {
  const answers = { [LIST]: list(event({ phase: "ended", prompt_count: 0 })) };
  const { feed } = feedOf(answers);
  const rest = () => feed.due - performance.now() / 1000;
  await after(feed);
  feed.state = { ...feed.state, prompts_told: feed.state.prompt_count };
  await after(feed);
  assert.ok(rest() > 10);
  feed.refresh(true);
  await feed.tick();
  assert.ok(rest() < 2.5);
  answers[LIST] = list(event({ session: "b", begun: 200, phase: "ended" }));
  await after(feed);
  assert.equal(feed.awaited, 0);
});

test("events of this node are taken, others are not", () => {
  const { feed, changes } = feedOf({});
  feed.hear(event({ node: "8" }));
  assert.equal(feed.state, null);
  feed.hear(event());
  feed.hear(event());
  feed.hear(event({ node: "8", sequence: 7 }));
  assert.deepEqual([feed.state.sequence, changes], [7, [null, "a"]], "known by its session");
});

test("a clock that runs wrong is told by the server's, one a second off is not", async () => {
  const later = new Date(Date.now() + 3600_000).toUTCString();
  const { feed } = feedOf({ [LIST]: list() }, { date: later });
  await after(feed);
  assert.ok(Math.abs(feed.serverNow - Date.now() / 1000 - 3600) < 2);
  const { feed: right } = feedOf({ [LIST]: list() });
  await after(right);
  assert.equal(right.skew, 0);
});
