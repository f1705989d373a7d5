import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { MODES, answered, newBook, settled, wished } from "../../web/controls.mjs";
import {
  failureWords, nextWords, noticeOf, phaseWords, problemWords, promptWords, redoWords, stateLine, timesOf, timesOfSpan,
} from "../../web/line.mjs";
import { LANGUAGES, speaker } from "../../web/words.mjs";
import { state } from "./states.mjs";

const say = speaker("en");
const book = wished(newBook("me"), { do: "prompt", prompt: "a dog", mode: "cut" }, 0);

test("the state line tells block, length, speed, VRAM and buffer", () => {
  const vram = { used: 7.06 * 2 ** 30, total: 12 * 2 ** 30 };
  assert.deepEqual(stateLine(state({ vram }), 11.9, say), [
    "Block 3 of 40", "0:02 made", "1.5× play speed", "VRAM 7.1 of 12 GiB", "11 s buffered",
  ]);
});

test("the state line leaves out what is not known", () => {
  const early = state({ blocks: null, frames: 0, made_per_second: 0, block: 0 });
  assert.deepEqual(stateLine(early, null, say), ["Block 0", "0:00 made"]);
  assert.equal(stateLine(state({ made_per_second: 7.9 }), null, say)[2], "0.49× play speed");
  assert.equal(stateLine(state({ made_per_second: 200 }), null, say)[2], "13× play speed");
});

test("a run tells what is left and when it is done, and not where that is unknown", () => {
  const noon = new Date(2026, 10, 30, 12, 0).getTime() / 1000;
  const words = (more, now = noon, told = noon) => timesOf(state({ begun: noon - 3723, ...more }), now, told, "en-GB", say);
  assert.equal(words({ left_seconds: 250 }), "4:10 left, done at 12:04");
  assert.equal(words({ left_seconds: 250 }, noon + 10), "4:00 left, done at 12:04", "it counts down between two states");
  assert.equal(words({ left_seconds: 250 }, noon + 900), "0:00 left, done at 12:04");
  assert.match(words({ left_seconds: 86400 }), /^24:00:00 left, done at Tue,? 12:00$/);
  assert.equal(words({ left_seconds: 250, phase: "paused" }), "4:10 left");
  assert.equal(words({ left_seconds: null }), "");
  assert.equal(words({ left_seconds: 250, frames: 0 }), "");
  assert.equal(words({ left_seconds: 0, phase: "ended" }), "");
  assert.equal(words({ blocks: null }), "running for 1:02:03");
  assert.equal(stateLine(state(), null, say, "4:10 left")[3], "4:10 left");
});

test("a warning of the drift is told once", () => {
  const warned = { watch: { warning: "It stands still." } };
  assert.equal(noticeOf(state({ notice: "It stands still.", ...warned })), "");
  assert.equal(noticeOf(state({ notice: "The card is full.", ...warned })), "The card is full.");
  assert.equal(noticeOf(state({ notice: "The card is full." })), "The card is full.");
  assert.equal(noticeOf(state()), "");
});

test("the phase is told in words", () => {
  assert.equal(phaseWords(state(), say), "Running");
  assert.equal(phaseWords(state({ frames: 0 }), say), "Making the first block");
  assert.equal(phaseWords(state({ phase: "starting", frames: 0 }), say), "Making the first block");
  assert.equal(phaseWords(state({ phase: "starting", frames: 65 }), say), "Making the next block");
  assert.equal(phaseWords(state({ phase: "paused" }), say), "Making is paused");
});

test("why a stream is over is told, and whether it can be gone on with", () => {
  const words = (more) => phaseWords(state({ phase: "ended", frames: 200, ...more }), say);
  assert.equal(words({}), "Finished");
  assert.equal(words({ stopped: true, stopped_by: "viewer" }), "Stopped by you at 0:12, can be resumed");
  assert.equal(words({ stopped: true, stopped_by: "viewer", take: "" }), "Stopped by you at 0:12");
  assert.equal(words({ stopped: true, stopped_by: "drift" }), "Stopped at 0:12: the picture drifted, can be resumed");
  assert.equal(words({ stopped: true, stopped_by: "disk" }), "Stopped at 0:12: the disk is nearly full, can be resumed");
  assert.equal(words({ sentence: "The run was interrupted." }), "Interrupted at 0:12, can be resumed");
  assert.equal(words({ goes_on: true, stopped_by: "" }), "Goes on when its turn comes");
  assert.equal(words({ phase: "failed" }), "Stopped by an error");
  assert.equal(words({ phase: "failed", forgotten: true }), "Cut off at 0:12");
});

test("a redo is made when its frame is, not before", () => {
  assert.equal(redoWords(null, state(), say), "");
  assert.equal(redoWords(122, state({ frames: 81, fps: 16 }), say), "On the way to 0:07.6: from there on it is made again.");
  assert.equal(redoWords(122, state({ frames: 122, fps: 16 }), say), "On the way to 0:07.6: from there on it is made again.");
  assert.equal(redoWords(122, state({ frames: 123, fps: 16 }), say), "Made again from 0:07.6 on.");
});

test("a run that has not begun is told by what it waits for", () => {
  assert.equal(nextWords(null, say), "");
  assert.equal(nextWords({ standing: "waiting", ahead: 0 }, say), "Queued");
  assert.equal(nextWords({ standing: "waiting", ahead: 3 }, say), "Queued, 3 before it");
  assert.equal(nextWords({ standing: "running", here: false, title: "" }, say), "Getting ready");
  assert.equal(nextWords({ standing: "running", here: false, title: "Load VAE" }, say), "Getting ready: Load VAE");
  assert.equal(nextWords({ standing: "running", here: true, title: "Stream Video" }, say), "Loading the model");
});

test("short spans are told with tenths of a second", () => {
  assert.deepEqual(timesOfSpan({ from: 3, to: 3.75 }), { from: "0:03.0", to: "0:03.7" });
  assert.deepEqual(timesOfSpan({ from: 3, to: 63.75 }), { from: "0:03", to: "1:03" });
});

test("a prompt is followed from sending to its second", () => {
  const words = (of, more) => promptWords(of, state(more), say);
  assert.deepEqual(words(newBook("me")), { text: "", wrong: false });
  assert.equal(words(book).text, "Sending the prompt.");
  const waiting = answered(book, 1, { status: 202 }, 0);
  assert.equal(words(waiting).text, "“a dog” waits for the next block.");
  const told = { viewer: "me", number: 1, outcome: "done", sentence: "", block: 14, first_frame: 165 };
  assert.equal(words(settled(waiting, state({ acknowledged: [told] }))).text, "“a dog” is seen from 0:10 on.");
  const refused = { ...told, outcome: "refused", sentence: "No dogs here." };
  assert.deepEqual(words(settled(waiting, state({ acknowledged: [refused] }))), { text: "No dogs here.", wrong: true });
  assert.equal(words(settled(waiting, state({ phase: "ended" }))).wrong, true);
});

test("another page's prompt is told unless an own one waits", () => {
  const pending = [{ viewer: "x", number: 1, do: "prompt", prompt: "a cat", mode: "cut" }];
  assert.match(promptWords(newBook("me"), state({ pending }), say).text, /Another page asked for “a cat”/);
  const waiting = answered(book, 1, { status: 202 }, 0);
  assert.match(promptWords(waiting, state({ pending }), say).text, /“a dog” waits/);
});

test("failures and problems are sentences", () => {
  const refused = answered(wished(newBook("me"), { do: "pause" }, 0), 1, { status: 409, error: "It ended." }, 0);
  assert.equal(failureWords(refused, state(), say), "It ended.");
  assert.equal(failureWords(refused, state({ phase: "ended" }), say), "");
  assert.equal(failureWords(newBook("me"), state(), say), "");
  assert.match(problemWords("promptLong", "x".repeat(13), state({ longest_prompt: 12 }), say), /13 letters; at most 12/);
});

test("every language has every sentence, with the same names in it", () => {
  const names = (text) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort();
  for (const [language, own] of Object.entries(LANGUAGES)) {
    assert.deepEqual(Object.keys(own).sort(), Object.keys(LANGUAGES.en).sort(), language);
    for (const key of Object.keys(own)) assert.deepEqual(names(own[key]), names(LANGUAGES.en[key]), `${language} ${key}`);
  }
});

test("the hint about changes names every way as the choice beside it does", () => {
  for (const [language, own] of Object.entries(LANGUAGES)) {
    for (const mode of MODES) {
      const label = own[`mode${mode[0].toUpperCase()}${mode.slice(1)}`];
      assert.ok(label && own.modeHint.includes(label), `${language}: ${label}`);
    }
  }
});

test("no sentence is there twice in a language", () => {
  const source = readFileSync(new URL("../../web/words.mjs", import.meta.url), "utf8");
  const keys = [...source.matchAll(/^  (\w+): "/gm)].map((match) => match[1]);
  assert.equal(keys.length, Object.values(LANGUAGES).reduce((sum, own) => sum + Object.keys(own).length, 0));
});

test("a sentence about a long prompt has the beginning of it", () => {
  const prompt = `${"河".repeat(79)}流`.repeat(50);
  const waiting = answered(wished(newBook("v"), { do: "prompt", prompt, mode: "cut" }, 0), 1, { status: 202 }, 0);
  const { text } = promptWords(waiting, state(), say);
  assert.ok(text.includes(`${"河".repeat(79)}…`) && text.length < 150, text);
});

test("a language is taken by its first letters, an unknown one is English", () => {
  assert.equal(speaker("zh-CN")("retry"), "重试");
  assert.equal(speaker("xx")("retry"), "Try again");
  assert.equal(speaker(undefined)("block", { block: 3 }), "Block 3");
});
