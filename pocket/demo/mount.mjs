// Puts the preview widget into the demo's page, and has another video made after the end of one.

import { answerOf, ownServer } from "./web/link.mjs";
import { hasEnded } from "./web/session.mjs";
import { sendOnEnter } from "./web/view.mjs";
import { mount } from "./web/widget.mjs";

const POLL_SECONDS = 0.5; // this server sends no events
const TICK_MILLISECONDS = 250;

const part = (id) => document.getElementById(id);
const [another, wanted, refused] = ["another", "wanted", "refused"].map(part);
let before = ""; // the stream after which another one was asked for

const widget = mount(part("stream"), {
  transport: ownServer, client: () => "demo", place: () => ({ node: "demo", workflow: "" }), busySeconds: POLL_SECONDS,
  next: () => (before && widget.state.session === before ? { standing: "running", here: false, title: "" } : null),
});
widget.parts.form.after(part("prompts"));
widget.parts.drift.open = !matchMedia("(max-width: 40rem)").matches; // on a phone the controls need the place

const isOver = () => Boolean(widget.state) && hasEnded(widget.state);

async function start(prompt) {
  wanted.value = prompt;
  const { status, body } = await answerOf(() => ownServer.post("/another", { prompt }), "json", null);
  refused.textContent = status === 202 ? "" : (body?.error ?? "The server does not answer. Start the demo again.");
  wanted.setAttribute("aria-invalid", status !== 202);
  if (status === 202) [before, wanted.value] = [widget.state.session, ""];
  widget.refresh(status === 202);
}

another.addEventListener("submit", (event) => {
  event.preventDefault();
  start(wanted.value);
});
sendOnEnter(wanted);
for (const example of document.querySelectorAll("#examples button")) {
  example.addEventListener("click", () => (isOver() ? start : widget.request.bind(widget))(example.textContent));
}
setInterval(() => (another.hidden = !isOver()), TICK_MILLISECONDS);
