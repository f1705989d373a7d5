// Puts the preview widget into the demo's page.

import { ownServer } from "./web/link.mjs";
import { mount } from "./web/widget.mjs";

const POLL_SECONDS = 0.5; // this server sends no events

const widget = mount(document.getElementById("stream"), {
  transport: ownServer, client: () => "demo", place: () => ({ node: "demo", workflow: "" }), busySeconds: POLL_SECONDS,
});
for (const example of document.querySelectorAll("#examples button")) {
  example.addEventListener("click", () => widget.request(example.textContent));
}
