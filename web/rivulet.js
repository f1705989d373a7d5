// Mounts the live preview in Stream Video and the list of takes in Resume Stream. All it knows is the host.

import { Fold } from "./fold.mjs";
import { api, app, inPage, MARGINS, page, transport } from "./host.mjs";
import { answerOf } from "./link.mjs";
import { neededHeight, NODE_SIZE, NodeHeight } from "./layout.mjs";
import { passOn } from "./pass_on.mjs";
import { placeOf } from "./place.mjs";
import { EVENTS, Queue } from "./queue.mjs";
import { hasEnded } from "./session.mjs";
import { mountTakes } from "./takes_list.mjs";
import { mount } from "./widget.mjs";
import { speaker } from "./words.mjs";

const EVENT = "rivulet.stream";
const STREAM = "RivuletStream";
const NEAR = 16; // pixels: so much wider than its inputs, a node was made so by somebody
const OUTER_WIDTH = 640; // pixels of a subgraph's node that shows the stream in it: the picture beside its controls
const LIST_SIZE = [400, 300]; // pixels, of the list of takes: less is hard to read
const VIDEO = /\.mp4$/;
const COMBOS = ["take", "snapshot"]; // names of the input that chooses, newest first

const jobs = new Queue(transport, () => api.clientId ?? "");
for (const event of EVENTS) api.addEventListener(event, ({ detail }) => jobs.hear(event, detail));

const widgets = new Set();

/** The host gave a node's video to a run of this page: one that it had already is shown where it was asked for. */
async function noteGiven({ node, prompt_id, output }) {
  const [file] = output?.images ?? [];
  if (!VIDEO.test(file?.filename)) return;
  const path = [file.subfolder, file.filename].filter(Boolean).join("/");
  const message = { client: api.clientId ?? "", prompt_id, node: String(node), file: path };
  const { status, body } = await answerOf(() => transport.post("/rivulet/given", message), "json", null);
  if (status === 200 && body.known) for (const each of widgets) each.refresh();
}

api.addEventListener("executed", ({ detail }) => noteGiven(detail));

/** What the next run of the node at a place waits for, with the name of the node that has its turn. */
function nextRun(place, known) {
  const next = jobs.next(place, known);
  return next && { ...next, title: app.graph?.getNodeById?.(next.node?.split(":")[0])?.title ?? "" };
}

/** Gives a node a size of at least `width`; `height` is left to what is in it where nodes are elements of the page. */
function resize(node, width, height) {
  if (node.flags?.collapsed) return;
  const size = [Math.max(node.size[0], width), inPage() ? node.size[1] : height];
  if (size[0] === node.size[0] && size[1] === node.size[1]) return;
  node.setSize(size);
  node.setDirtyCanvas?.(true, true);
}

/** Adds an element to a node; `heard` are listeners by event, which leave with the node, as does the widget. */
function add(node, name, element, widget, heard, leastHeight) {
  for (const [event, act] of Object.entries(heard)) api.addEventListener(event, act);
  const leaving = new AbortController();
  const added = node.addDOMWidget(name, `rivulet_${name}`, element, {
    serialize: false, hideOnZoom: false, hideInPanel: true, getMinHeight: leastHeight,
  });
  added.serialize = false;
  passOn(element, app, leaving.signal);
  const removed = node.onRemoved;
  node.onRemoved = function (...given) {
    for (const [event, act] of Object.entries(heard)) api.removeEventListener(event, act);
    leaving.abort();
    widget.dispose();
    return removed?.apply(this, given);
  };
  return leaving.signal;
}

/** Calls `act` when one of the elements has another size than before, until the signal. */
function whenResized(elements, act, signal) {
  const watch = new ResizeObserver(act);
  for (const each of elements) watch.observe(each);
  signal.addEventListener("abort", () => watch.disconnect());
}

const widgetOf = (node, names) => node.widgets?.find((each) => names.includes(each.name));

/** The first Stream Video in a graph or in the subgraphs of it, or null. */
function streamIn(graph) {
  for (const each of graph?.nodes ?? []) {
    const found = each.comfyClass === STREAM ? each : streamIn(each.subgraph);
    if (found) return found;
  }
  return null;
}

/** Shows in a node what a Stream Video makes: the node itself, or the one in the subgraph that it stands for. */
function preview(node, stream = node) {
  jobs.refresh(); // a page that was loaded again in the middle of a run
  const element = document.createElement("div");
  element.className = "rivulet-node";
  const options = page(node);
  const widget = mount(element, {
    ...options,
    client: () => api.clientId ?? "",
    place: () => placeOf(stream, node),
    next: (known) => nextRun(placeOf(stream, node), known),
    queue: () => app.queuePrompt(0),
    prefix: () => widgetOf(stream, ["filename_prefix"])?.value ?? null,
  });
  const root = element.firstChild;
  const heard = { [EVENT]: ({ detail }) => widget.hear(detail), reconnected: () => widget.refresh() };
  const fold = stream === node && new Fold(node, speaker(options.language), inPage, () => fit());
  let needed = 0;
  const leaving = add(node, "preview", element, widget, heard, () => needed + MARGINS);
  widgets.add(widget);
  leaving.addEventListener("abort", () => widgets.delete(widget));
  const size = stream === node ? NODE_SIZE : [OUTER_WIDTH, node.size[1]];
  const height = new NodeHeight(size[1]);
  const fit = () => {
    if (!root.isConnected || !root.offsetWidth || document.fullscreenElement === root) return;
    // the host gives a node that it has made the width of its inputs, after the extensions have seen it
    if (node.size[0] < node.computeSize()[0] + NEAR) resize(node, size[0], node.size[1]);
    needed = neededHeight(root);
    if (fold) fold.update();
    if (inPage() || node.flags?.collapsed) return;
    const [, least] = node.computeSize();
    height.note(node.size[1], least);
    resize(node, 0, height.fit(least));
  };
  // what is as high as its own content: the root itself is as high as the node leaves room
  whenResized([root, ...root.querySelectorAll(":scope > :not(.stage), .side, .below")], fit, leaving);
  ownPicture(node);
  keepSize(node, height, () => root.offsetHeight - neededHeight(root));
  resize(node, size[0], size[1]);
}

/** The host draws what a node gave back; this one has shown it all the time. */
function ownPicture(node) {
  node.hideOutputImages = true; // where nodes are elements of the page
  node.onDrawBackground = () => {};
}

/** A workflow is saved with the node as high as the user made it, not with what its content takes just now. */
function keepSize(node, height, spare) {
  const serialize = node.onSerialize;
  node.onSerialize = function (saved, ...more) {
    serialize?.call(this, saved, ...more);
    if (inPage() && !node.flags?.collapsed) height.note(node.size[1], node.size[1] - spare());
    if (height.byHand && saved.size) saved.size = [saved.size[0], height.byHand];
  };
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
  const tallest = () => (inPage() ? "" : "none");
  const linked = () => node.isOutputConnected(0);
  const list = mountTakes(element, { ...page(node), value: chosen, choose, tallest, linked });
  const ended = ({ detail }) => hasEnded(detail) && list.refresh();
  const heard = { [EVENT]: ended, reconnected: () => list.refresh() };
  const leaving = add(node, "takes", element, list, heard, () => LIST_SIZE[1]);
  const grow = () => resize(node, LIST_SIZE[0], Math.max(node.size[1], node.computeSize()[1]));
  whenResized([element.firstChild], grow, leaving);
  grow();
}

app.registerExtension({
  name: "rivulet.preview",
  nodeCreated(node) {
    // the arrows of a rate with three places go by whole pictures
    if (node.comfyClass?.startsWith("Rivulet")) Object.assign(widgetOf(node, ["fps"])?.options ?? {}, { step: 10, step2: 1 });
    if (node.comfyClass === STREAM) preview(node);
    const inside = node.isSubgraphNode?.() ? streamIn(node.subgraph) : null;
    if (inside) preview(node, inside);
    if (node.comfyClass === "RivuletResume") takes(node);
  },
});
