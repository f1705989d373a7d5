import assert from "node:assert/strict";
import { test } from "node:test";

import { Bell, newsOf } from "../../web/bell.mjs";
import { state } from "./states.mjs";

/** A window with as much as the bell uses; `permission` null: without notifications. */
function window(permission, answer = permission) {
  const shown = [];
  const kept = new Map();
  const page = {
    localStorage: { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) },
    document: { title: "a workflow", hasFocus: () => false },
    setInterval: (act) => (page.tick = act), clearInterval: () => (page.tick = null),
    addEventListener: (name, act) => (page.focused = act), asked: 0, shown,
  };
  if (permission !== null) {
    page.Notification = class {
      static permission = permission;

      static async requestPermission() {
        page.asked += 1;
        page.Notification.permission = answer;
      }

      constructor(title, { body }) {
        shown.push([title, body]);
      }
    };
  }
  return page;
}

test("the end, an error and a warning are news, once", () => {
  const [running, ended] = [state(), state({ phase: "ended" })];
  assert.equal(newsOf(running, ended), "ended");
  assert.equal(newsOf(running, state({ phase: "failed" })), "failed");
  assert.equal(newsOf(ended, ended), "");
  assert.equal(newsOf(running, state({ phase: "ended", goes_on: true })), "", "another session goes on with it");
  assert.equal(newsOf(null, ended), "", "found ended");
  assert.equal(newsOf(running, state({ session: "b", phase: "ended" })), "", "another stream");
  const warned = state({ watch: { warning: "It stands still." } });
  assert.equal(newsOf(running, warned), "warning");
  assert.equal(newsOf(warned, warned), "");
});

test("it asks for permission once, by the click that turns it on", async () => {
  const page = window("default", "granted");
  const bell = new Bell(page);
  bell.ring("Finished", "a.mp4");
  assert.deepEqual([bell.on, page.asked, page.shown], [false, 0, []]);
  await bell.turn();
  bell.ring("Finished", "a.mp4");
  assert.deepEqual([bell.on, page.asked, page.shown], [true, 1, [["Finished", "a.mp4"]]]);
  assert.ok(new Bell(page).on, "remembered");
  await bell.turn();
  await bell.turn();
  assert.equal(page.asked, 1);
  assert.equal(page.document.title, "a workflow");
});

test("without permission the title flashes until somebody looks", async () => {
  for (const page of [window("denied"), window(null), window("default", "denied")]) {
    const bell = new Bell(page);
    await bell.turn();
    bell.ring("Finished", "a.mp4");
    assert.equal(page.document.title, "● Finished");
    page.tick();
    assert.equal(page.document.title, "a workflow");
    page.tick();
    bell.ring("Stopped by an error", "a.mp4");
    assert.equal(page.document.title, "● Stopped by an error");
    page.focused();
    assert.deepEqual([page.document.title, page.tick], ["a workflow", null]);
  }
});

test("who looks at the page is not told by its title, and a page that may keep nothing still has a bell", async () => {
  const page = window(null);
  page.document.hasFocus = () => true;
  page.localStorage = { getItem() { throw new Error("forbidden"); }, setItem() { throw new Error("forbidden"); } };
  const bell = new Bell(page);
  assert.equal(bell.on, false);
  await bell.turn();
  assert.equal(bell.on, true);
  bell.ring("Finished", "a.mp4");
  assert.equal(page.document.title, "a workflow");
});
