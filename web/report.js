// Shows in the node what Plan Stream and Rivulet Doctor found.

import { app } from "/scripts/app.js";

const NODES = ["RivuletPlan", "RivuletDoctor"];
const LEAST_HEIGHT = 140; // pixels

function report(node) {
  const element = document.createElement("textarea");
  element.readOnly = true;
  element.className = "comfy-multiline-input";
  const widget = node.addDOMWidget("report", "rivulet_report", element, {
    serialize: false, hideOnZoom: false, getMinHeight: () => LEAST_HEIGHT,
  });
  widget.serialize = false;
  const executed = node.onExecuted;
  node.onExecuted = function (output) {
    executed?.call(this, output);
    element.value = output?.text?.join("\n") ?? "";
  };
}

app.registerExtension({
  name: "rivulet.report",
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) report(node);
  },
});
