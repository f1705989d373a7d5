// Brings Stream Video into every state in ComfyUI's own page and prints, for each, where its parts lie.
//
//     node layout_page.mjs '{"url": ..., "workflow": {...}, "vue": false, "shots": "folder"}'

import { NODE_SIZE } from "../../web/layout.mjs";
import { rest, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);
const WINDOW = { width: 1600, height: 1000 };
const WATCH = { frames_per_point: 16, motion: [0.1, 0.2], saturation: [0.3, 0.3], clipped: [0, 0], jump: [null, null] };
const LONG = "The prompt names things that this model has never seen. ".repeat(12);

/** Where the node and the parts of its preview lie, in pixels of the window, and what of them is cut off. */
function measure(page) {
  return page.evaluate(async () => {
    const { app } = await import("/scripts/app.js");
    const node = app.graph.nodes.find((each) => each.comfyClass === "RivuletStream");
    const root = document.querySelector(".rivulet-node > .rivulet");
    const box = (element) => {
      const { left, top, right, bottom } = element.getBoundingClientRect();
      return { left, top, right, bottom };
    };
    const { scale, offset } = app.canvas.ds;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const drawn = {
      left: canvas.left + (node.pos[0] + offset[0]) * scale, top: canvas.top + (node.pos[1] + offset[1] - 30) * scale,
      right: canvas.left + (node.pos[0] + node.size[0] + offset[0]) * scale,
      bottom: canvas.top + (node.pos[1] + node.size[1] + offset[1]) * scale,
    };
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const inPage = Boolean(globalThis.LiteGraph.vueNodesMode);
    const inner = element?.querySelector('[data-testid="node-inner-wrapper"]') ?? element;
    const parts = {};
    const named = {
      picture: ".screen", pause: ".controls-row button", side: ".side", prompt: ".next textarea", redo: "form.redo",
      trouble: ".trouble", idle: ".idle", offer: ".offer", below: ".below", told: ".next .told",
    };
    for (const [name, selector] of Object.entries(named)) {
      const part = root.querySelector(selector);
      if (part && part.checkVisibility() && part.getBoundingClientRect().height > 0) parts[name] = box(part);
    }
    const stop = [...root.querySelectorAll("button")].find((each) => each.textContent.startsWith("Stop"));
    if (stop?.checkVisibility()) parts.stop = box(stop);
    return {
      node: inPage ? box(inner) : drawn, size: [...node.size], widget: box(root), parts, scale,
      hidden: root.scrollHeight - root.clientHeight, shown: root.querySelector(".phase")?.textContent,
    };
  });
}

/** Sends the page an event of the stream that it shows, with some fields other than the server has them. */
function pretend(page, fields) {
  return page.evaluate(async (told) => {
    const { api } = await import("/scripts/api.js");
    const { streams } = await (await api.fetchApi("/rivulet/streams")).json();
    globalThis.pretended = (globalThis.pretended ?? streams[0].sequence + 1000) + 1;
    api.dispatchCustomEvent("rivulet.stream", { ...streams[0], ...told, sequence: globalThis.pretended });
  }, fields);
}

/** Sets the node's size, as dragging its corner does. */
function drag(page, size) {
  return page.evaluate(async (wanted) => {
    const { app } = await import("/scripts/app.js");
    const node = app.graph.nodes.find((each) => each.comfyClass === "RivuletStream");
    node.setSize(wanted);
    app.canvas.setDirty(true, true);
  }, size);
}

/** Opens or closes the panel of properties, which shows the chosen node's. */
function panel(page, open) {
  return page.evaluate(async (wanted) => {
    const { app } = await import("/scripts/app.js");
    app.canvas.selectNode(app.graph.nodes.find((each) => each.comfyClass === "RivuletStream"));
    await app.extensionManager.setting.set("Comfy.RightSidePanel.IsOpen", wanted);
  }, open);
}

await visit(told, async (here) => {
  const { page, seen } = here;
  await page.setViewportSize(WINDOW);
  page.setDefaultTimeout(60_000);
  seen.states = {};
  const note = async (name) => {
    await rest(1);
    seen.states[name] = await measure(page);
    await here.shot(`layout-${name}`);
  };
  await page.evaluate(async ({ workflow, size }) => {
    const { app } = await import("/scripts/app.js");
    const wanted = workflow.nodes.find((each) => each.type === "RivuletStream");
    [wanted.size, wanted.pos] = [size, [wanted.pos[0], 0]];
    await app.loadGraphData(workflow);
    const node = app.graph.nodes.find((each) => each.comfyClass === "RivuletStream");
    if (app.graph.nodes.length > 1) node.widgets.find((each) => each.name === "seconds").value = 600;
  }, { workflow: told.workflow, size: NODE_SIZE });
  await page.locator(".rivulet-node .idle").waitFor();
  await note("opened");
  await here.queue();
  await page.waitForFunction(() => document.querySelector(".rivulet video")?.readyState >= 2);
  await here.until((now) => now.block > 1);
  await note("running");
  // with its curves the preview is highest
  await page.locator(".rivulet .drift[open] svg").waitFor();
  await page.fill(".rivulet .next textarea", LONG);
  await note("typed");
  await here.press("Redo from here");
  await note("redo");
  await page.locator(".rivulet form.redo button:has-text('Cancel')").evaluate((button) => button.click());
  await page.fill(".rivulet .next textarea", "");
  await panel(page, true);
  await note("panel");
  await panel(page, false);
  await note("panel closed");
  await here.press("Stop and keep");
  await here.until((now) => now.phase === "ended" && now.video);
  await page.locator(".rivulet a:has-text('Save the video')").waitFor();
  await note("ended");
  await pretend(page, { phase: "running", notice: LONG, watch: { ...WATCH, warning: LONG } });
  await note("warned");
  await pretend(page, { phase: "failed", sentence: LONG });
  await note("failed");
  await pretend(page, { phase: "ended" });
  await note("ended again");
  const before = seen.states["ended again"].size;
  await drag(page, [420, before[1]]);
  await note("narrow");
  await drag(page, [before[0] + 100, before[1] + 160]);
  await note("larger");
  await pretend(page, { phase: "failed", sentence: LONG });
  await note("larger failed");
  await pretend(page, { phase: "ended" });
  await note("larger ended");
  seen.saved = await page.evaluate(async () => {
    const { app } = await import("/scripts/app.js");
    return app.graph.serialize().nodes.find((each) => each.type === "RivuletStream").size;
  });
});
