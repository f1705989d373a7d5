// Opens every template of the pack in ComfyUI's own page, through its dialog, and prints what lies where.
//
//     node templates_page.mjs '{"url": ..., "vue": false, "names": [...], "run": [...], "asks": name, "shots": "folder"}'

import { rest, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);

const execute = (page, name) => page.evaluate((command) => globalThis.comfyAPI.app.app.extensionManager.command.execute(command), name);
const CARD = "[data-testid^='template-workflow-']";

/** Opens the dialog at this pack's templates; returns their titles, once all pictures are there. */
async function dialog(page) {
  await execute(page, "Comfy.BrowseTemplates");
  await page.getByRole("dialog").getByText("rivulet", { exact: true }).first().click();
  await page.waitForFunction(
    ({ names, card }) =>
      names.every((name) => {
        const picture = document.querySelector(`[data-testid='template-workflow-${name}'] img`);
        // a picture is loaded when it is seen, and more cards come when the last one is
        (picture ?? [...document.querySelectorAll(card)].at(-1))?.scrollIntoView();
        return picture?.naturalWidth;
      }),
    { names: told.names, card: CARD },
    { polling: 100 },
  );
  await rest(0.5);
  return page.evaluate((card) => [...document.querySelectorAll(card)].map((each) => each.innerText.split("\n").at(-1)), CARD);
}

/** Every node of the page: what it covers on screen, in pixels, and the part of the page that the graph has. */
function boxes(page) {
  return page.evaluate(() => {
    const { app } = globalThis.comfyAPI.app;
    const { ds } = app.canvas;
    const shown = app.canvasEl.getBoundingClientRect();
    const left = Math.max(shown.left, ...[...document.querySelectorAll(".side-bar-panel, .side-tool-bar-container")].map((each) => each.getBoundingClientRect().right));
    const found = app.graph.nodes.map((node) => {
      const element = document.querySelector(`[data-node-id="${node.id}"]`);
      if (element) {
        const { x, y, width, height } = element.getBoundingClientRect();
        return { id: Number(node.id), type: node.type, box: [x, y, width, height] };
      }
      const [x, y, width, height] = node.getBounding?.() ?? node.boundingRect;
      const at = [(x + ds.offset[0]) * ds.scale + shown.left, (y + ds.offset[1]) * ds.scale + shown.top];
      return { id: Number(node.id), type: node.type, box: [...at, width * ds.scale, height * ds.scale] };
    });
    return { zoom: ds.scale, left, page: [innerWidth, innerHeight], nodes: found };
  });
}

/** Opens a template as the dialog does, which is slow to draw. */
function open(page, name) {
  return page.evaluate(async (name) => {
    const { app } = globalThis.comfyAPI.app;
    const { api } = globalThis.comfyAPI.api;
    const found = await (await api.fetchApi(`/workflow_templates/rivulet/${name}.json`)).json();
    await app.loadGraphData(found, true, true, name, { openSource: "template" });
  }, name);
}

/** What the page says is missing, and what it offers: the text of its panel. */
async function missing(page) {
  await page.getByRole("button", { name: "View details" }).click();
  const heading = page.getByText("Missing Models", { exact: true }).first();
  await heading.waitFor();
  await rest(1);
  return heading.evaluate((element) => {
    let panel = element;
    while (!panel.innerText.includes("Download all")) panel = panel.parentElement;
    return panel.innerText.split("\n").map((line) => line.trim()).filter(Boolean);
  });
}

/** Runs the template that is open, two seconds long. */
async function run(here) {
  const { page } = here;
  await page.evaluate(() => {
    const { app } = globalThis.comfyAPI.app;
    for (const node of app.graph.nodes) for (const each of node.widgets ?? []) if (each.name === "seconds") each.value = 2;
  });
  const before = (await here.state())?.session;
  await here.queue();
  await here.until((now) => now.session !== before && now.phase === "ended");
  await rest(3);
}

await visit(told, async (here) => {
  const { page, seen } = here;
  await page.setViewportSize({ width: 1600, height: 1000 });
  seen.vue = await page.evaluate(() => Boolean(globalThis.LiteGraph?.vueNodesMode));
  seen.cards = await dialog(page);
  await here.shot("dialog");
  await page.locator(`[data-testid='template-workflow-${told.names[0]}']`).click();
  await page.locator(CARD).first().waitFor({ state: "detached" });
  Object.assign(seen, { opened: {}, ran: {} });
  for (const name of told.names) {
    await open(page, name);
    await rest(1.5);
    seen.opened[name] = await boxes(page);
    await here.shot(name);
    if (told.run.includes(name)) {
      await run(here);
      seen.ran[name] = await boxes(page);
      await here.shot(`${name}-ran`);
    }
  }
  await open(page, told.asks);
  seen.missing = await missing(page);
  await here.shot("missing");
  // the next page of this server opens without the panel, which would lie over its graph
  await here.set("Comfy.RightSidePanel.IsOpen", false);
});
