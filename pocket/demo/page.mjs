// Wiring: the page's elements, the server's answers, nothing decided here.

import { clock } from "../../web/clock.mjs";
import { promptAt } from "../../web/timeline.mjs";
import { acknowledgement, figures, hasEnded, phaseWords, promptProblem } from "./logic.mjs";
import { playFragments, showFinished, showPictures } from "./player.mjs";

const $ = (id) => document.getElementById(id);
const POLL_MILLISECONDS = 400;
const REST_MILLISECONDS = 2000;
const LOST_POLLS = 4; // unanswered questions after which the demo is taken for gone

let status = null;
let asked = null; // number of the prompt typed last
let seconds = 0; // playhead

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function send(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

/** Sets a text only when it differs, so that screen readers do not say it again. */
function put(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

function disable(over) {
  for (const element of document.querySelectorAll("#form input, button")) element.disabled = over;
}

function show() {
  put($("phase"), phaseWords(status));
  document.body.dataset.phase = status.phase;
  $("figures").replaceChildren(...figures(status).map(([name, value]) => pair(name, value)));
  put($("sentence"), status.sentence);
  put($("pause"), status.phase === "paused" ? "Resume" : "Pause");
  disable(hasEnded(status));
  $("keep").hidden = !status.video;
  if (asked !== null) tell(acknowledgement(asked, status), false);
  $("history").replaceChildren(...status.applied.toReversed().map(entry));
  put($("caption"), promptAt(seconds, status.applied, status.fps));
}

function pair(name, value) {
  const [box, term, detail] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
  term.textContent = name;
  detail.textContent = value;
  box.append(term, detail);
  return box;
}

function entry({ prompt, first_frame: frame }) {
  const [item, time] = ["li", "time"].map((tag) => document.createElement(tag));
  time.textContent = clock(frame / status.fps);
  item.append(time, ` ${prompt}`);
  return item;
}

function tell(words, wrong) {
  put($("told"), words);
  $("told").dataset.wrong = wrong;
  $("prompt").setAttribute("aria-invalid", wrong);
}

async function ask(prompt) {
  const problem = promptProblem(prompt);
  if (problem) return refuse(problem);
  try {
    asked = (await send("/prompt", { prompt })).number;
    tell("Waits for the next block.", false);
  } catch (why) {
    refuse(why.message);
  }
}

function refuse(words) {
  asked = null;
  tell(words, true);
}

async function control(wish) {
  try {
    await send("/control", { do: wish });
  } catch (why) {
    refuse(why.message);
  }
}

async function poll() {
  let lost = 0;
  while (lost < LOST_POLLS) {
    try {
      status = await (await fetch("/status")).json();
      lost = 0;
      show();
    } catch {
      lost += 1;
    }
    await sleep(document.hidden || hasEnded(status ?? {}) ? REST_MILLISECONDS : POLL_MILLISECONDS);
  }
  document.body.dataset.phase = "gone";
  put($("phase"), "The demo is closed");
  disable(true);
}

function offerExamples() {
  for (const prompt of status.examples) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = prompt;
    button.addEventListener("click", () => {
      $("prompt").value = prompt;
      ask(prompt);
    });
    $("examples").append(button);
  }
}

async function watch() {
  while (status === null) await sleep(50);
  const [video, canvas] = [$("video"), $("picture")];
  for (const element of [video, canvas]) element.style.aspectRatio = `${status.width} / ${status.height}`;
  $("prompt").value = status.applied.at(-1).prompt;
  offerExamples();
  video.addEventListener("timeupdate", () => (seconds = video.currentTime));
  try {
    await playFragments(video, () => status);
  } catch (why) {
    console.info(`Rivulet shows single pictures: ${why.message}`);
    video.hidden = true;
    canvas.hidden = false;
    await showPictures(canvas, () => status, (frame) => (seconds = frame / status.fps));
  }
  while (!status.video && status.phase !== "failed") await sleep(100);
  if (!status.video) return;
  await showFinished(video, seconds);
  video.hidden = false;
  canvas.hidden = true;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask($("prompt").value);
});
$("pause").addEventListener("click", () => control(status?.phase === "paused" ? "resume" : "pause"));
$("stop").addEventListener("click", () => control("stop"));
poll();
watch().catch((why) => console.warn(why));
