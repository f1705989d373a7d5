// Mounts the live preview in Stream Video and the list of takes in Resume Stream. All it knows is the host.

import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";

import { mountTakes } from "./takes_list.mjs";
import { mount } from "./widget.mjs";

const EVENT = "rivulet.stream";
const LEAST_HEIGHT = 120; // pixels
const LIST_SIZE = [400, 300]; // pixels, of the list of takes: less is hard to read
const VIDEO = /\.mp4$/;
const UNNAMED = "00000000-0000-0000-0000-000000000000"; // id of a graph that came without one
const COMBOS = ["take", "snapshot"]; // names of the input that chooses, newest first

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

/** What every widget here is told of the page. */
function page(node) {
  return {
    transport,
    language: app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? navigator.language,
    theme: () => (isDark() ? "dark" : "light"),
    collapsed: () => Boolean(node.flags?.collapsed),
  };
}

/** Where a node is, as the server is told: its own id, the way to it through subgraphs, and its workflow. */
function placeOf(node) {
  const root = node.graph?.rootGraph;
  const workflow = root?.id === UNNAMED ? "" : root?.id ?? "";
  return { node: node.id, path: (root && pathIn(root, node)) || String(node.id), workflow };
}

/** "12:7" for node 7 in the subgraph that node 12 stands for; the first way where there are more. */
function pathIn(graph, node) {
  for (const each of graph.nodes ?? []) {
    if (each === node) return String(node.id);
    const inside = each.subgraph && pathIn(each.subgraph, node);
    if (inside) return `${each.id}:${inside}`;
  }
  return "";
}

/** Makes a node as large as what is in it needs; where nodes are elements of the page their height does so itself. */
function grow(node, width = 0) {
  if (node.flags?.collapsed) return;
  const height = globalThis.LiteGraph?.vueNodesMode ? 0 : node.computeSize()[1];
  const size = [Math.max(node.size[0], width), Math.max(node.size[1], height)];
  if (size[0] === node.size[0] && size[1] === node.size[1]) return;
  node.setSize(size);
  node.setDirtyCanvas?.(true, true);
}

/** Adds an element to a node; `heard` are listeners by event, which leave with the node, as does the widget. */
function add(node, name, element, widget, heard, leastHeight) {
  for (const [event, act] of Object.entries(heard)) api.addEventListener(event, act);
  const added = node.addDOMWidget(name, `rivulet_${name}`, element, {
    serialize: false, hideOnZoom: false, getMinHeight: leastHeight,
  });
  added.serialize = false;
  const watch = new ResizeObserver(() => grow(node));
  watch.observe(element.firstChild);
  const removed = node.onRemoved;
  node.onRemoved = function (...given) {
    for (const [event, act] of Object.entries(heard)) api.removeEventListener(event, act);
    watch.disconnect();
    widget.dispose();
    return removed?.apply(this, given);
  };
}

const widgetOf = (node, names) => node.widgets?.find((each) => names.includes(each.name));

function preview(node) {
  const element = document.createElement("div");
  const widget = mount(element, {
    ...page(node),
    client: () => api.clientId ?? "",
    place: () => placeOf(node),
    queue: () => app.queuePrompt(0),
    prefix: () => widgetOf(node, ["filename_prefix"])?.value ?? null,
  });
  const heard = { [EVENT]: ({ detail }) => widget.hear(detail), reconnected: () => widget.refresh() };
  add(node, "preview", element, widget, heard, () => Math.max(LEAST_HEIGHT, element.firstChild?.scrollHeight ?? 0));
}

function takes(node) {
  const element = document.createElement("div");
  const combo = () => widgetOf(node, COMBOS);
  const choose = (name, names) => {
    const { options } = combo();
    // the page got its list when it was loaded, and would not let a newer take be chosen
    if (Array.isArray(options.values)) options.values = [...new Set([...options.values, ...names])];
    combo().value = name;
    combo().callback?.(name);
    node.setDirtyCanvas?.(true, true);
  };
  // a node without a take has a sentence for a value
  const value = () => String(combo()?.value ?? "");
  const chosen = () => (VIDEO.test(value()) ? value() : "");
  // where nodes are elements of the page, one is as high as what is in it
  const tallest = () => (globalThis.LiteGraph?.vueNodesMode ? "" : "none");
  const list = mountTakes(element, { ...page(node), value: chosen, choose, tallest });
  const ended = ({ detail }) => ["ended", "failed"].includes(detail.phase) && list.refresh();
  add(node, "takes", element, list, { [EVENT]: ended, reconnected: () => list.refresh() }, () => LIST_SIZE[1]);
  grow(node, LIST_SIZE[0]);
}

app.registerExtension({
  name: "rivulet.preview",
  nodeCreated(node) {
    // the arrows of a rate with three places go by whole pictures
    if (node.comfyClass?.startsWith("Rivulet")) Object.assign(widgetOf(node, ["fps"])?.options ?? {}, { step: 10, step2: 1 });
    if (node.comfyClass === "RivuletStream") preview(node);
    if (node.comfyClass === "RivuletResume") takes(node);
  },
});
