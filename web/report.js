// Mounts the report in the nodes that find something out, and fills it from their runs. All it knows is the host.

import { api, app, inPage, MARGINS, page } from "./host.mjs";
import { answerOf } from "./link.mjs";
import { passOn } from "./pass_on.mjs";
import { placeOf } from "./place.mjs";
import { mountReport } from "./report.mjs";
import { failure, isFrom, lastReport, queued, said } from "./reports.mjs";

const WIDTHS = { RivuletPlan: 460, RivuletDoctor: 640, RivuletLoadModel: 460, RivuletCalibrate: 460 }; // pixels
const RUNS = 20; // newest ones, among which a report is looked for when a graph is opened

const panels = new Map(); // by node

const asked = async (path) => (await answerOf(() => api.fetchApi(path), "json", null)).body;
// a server with several users gives all of them the runs of each
const whose = () => ({ client: api.clientId, apart: Boolean(api.user) });

function report(node) {
  const element = document.createElement("div");
  const panel = mountReport(element, page(node));
  const height = () => panel.root.offsetHeight + MARGINS;
  const widget = node.addDOMWidget("report", "rivulet_report", element, {
    serialize: false, hideOnZoom: false, hideInPanel: true, getMinHeight: height, getMaxHeight: height,
  });
  widget.serialize = false;
  const watch = new ResizeObserver(() => fit(node, widget));
  watch.observe(panel.root);
  const leaving = new AbortController();
  passOn(element, app, leaving.signal);
  panels.set(node, panel);
  const removed = node.onRemoved;
  node.onRemoved = function (...given) {
    panels.delete(node);
    watch.disconnect();
    leaving.abort();
    panel.dispose();
    return removed?.apply(this, given);
  };
}

/** Makes a node as wide as its report is read well, and as high as it is; higher only where others share the height. */
function fit(node, widget) {
  if (node.flags?.collapsed) return;
  const width = Math.max(node.size[0], WIDTHS[node.comfyClass]);
  const shared = node.widgets.some((each) => each !== widget && each.element);
  const least = inPage() ? node.size[1] : node.computeSize()[1];
  const height = shared ? Math.max(least, node.size[1]) : least;
  if (width !== node.size[0] || height !== node.size[1]) node.setSize([width, height]);
  // who shares the height gives some up when the node is drawn again, also in a node that stays as it is
  node.setDirtyCanvas?.(true, true);
}

/** Shows what a run of this workflow said of a node, where it did: the page is told of those of its other tabs, too. */
async function hear({ prompt_id, node, node_id }, report) {
  const path = String(node ?? node_id);
  const heard = [...panels].filter(([each]) => placeOf(each).path === path);
  if (!heard.length || !report) return;
  const run = queued(await asked("/queue"), prompt_id) ?? (await asked(`/history/${prompt_id}`))?.[prompt_id]?.prompt;
  for (const [each, panel] of heard) if (isFrom(run, placeOf(each), whose())) panel.show(report);
}

api.addEventListener("executed", ({ detail }) => hear(detail, said(detail.output)));
api.addEventListener("execution_error", ({ detail }) => hear(detail, failure(detail)));

app.registerExtension({
  name: "rivulet.report",
  nodeCreated(node) {
    if (node.comfyClass in WIDTHS) report(node);
  },
  async afterConfigureGraph() {
    if (!panels.size) return;
    const history = await asked(`/history?max_items=${RUNS}`);
    for (const [node, panel] of panels) {
      const last = lastReport(history, placeOf(node), whose());
      if (last) panel.show(last);
    }
  },
});
