// Mounts the live preview in the stream node. All it knows is the host; the widget knows the stream.

import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";

import { mount } from "./widget.mjs";

const NODES = ["RivuletStream", "RivuletResume"];
const EVENT = "rivulet.stream";
const LEAST_HEIGHT = 120; // pixels

const transport = {
  get: (path, options) => api.fetchApi(path, options),
  post: (path, json) => api.fetchApi(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(json),
  }),
  url: (path) => api.apiURL(path),
};

/** Whether the page is dark: newer front ends say so by its color scheme, older ones by a class. */
function isDark() {
  const { colorScheme } = getComputedStyle(document.documentElement);
  return colorScheme === "dark" || document.querySelector("html.dark-theme, body.dark-theme") !== null;
}

function preview(node) {
  const element = document.createElement("div");
  const widget = mount(element, {
    transport,
    client: () => api.clientId ?? "",
    place: () => ({ node: node.id, workflow: node.graph?.rootGraph?.id ?? "" }),
    language: app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? navigator.language,
    theme: () => (isDark() ? "dark" : "light"),
    collapsed: () => Boolean(node.flags?.collapsed),
  });
  const hear = ({ detail }) => widget.hear(detail);
  const refresh = () => widget.refresh();
  api.addEventListener(EVENT, hear);
  api.addEventListener("reconnected", refresh);
  const added = node.addDOMWidget("preview", "rivulet_preview", element, {
    serialize: false, hideOnZoom: false, getMinHeight: () => Math.max(LEAST_HEIGHT, element.firstChild?.scrollHeight ?? 0),
  });
  added.serialize = false;
  const removed = node.onRemoved;
  node.onRemoved = function (...given) {
    api.removeEventListener(EVENT, hear);
    api.removeEventListener("reconnected", refresh);
    widget.dispose();
    return removed?.apply(this, given);
  };
}

app.registerExtension({
  name: "rivulet.preview",
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) preview(node);
  },
});
