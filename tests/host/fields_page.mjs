// Types rates into Stream Video's own field in ComfyUI's page and prints what would be queued.
//
//     node fields_page.mjs '{"url": ..., "graph": {...}, "vue": false, "rates": ["23.976"], "shots": "folder"}'

import { visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);

/** What the page would send as the inputs of its stream. */
const sent = (page) => page.evaluate(async () => {
  const { output } = await (await import("/scripts/app.js")).app.graphToPrompt();
  return Object.values(output).find((node) => node.class_type === "RivuletStream").inputs;
});

/** Types into the field of that name as a person does, in LiteGraph. */
async function type(here, name, text) {
  const { page } = here;
  const place = await page.evaluate(async (name) => {
    const { app } = await import("/scripts/app.js");
    const node = app.graph.nodes.find((each) => each.comfyClass === "RivuletStream");
    const widget = node.widgets.find((each) => each.name === name);
    // a widget has a place once the canvas was drawn
    while (!(widget.last_y > 0)) await new Promise((drawn) => setTimeout(drawn, 50));
    const { scale, offset } = app.canvas.ds;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const [x, y] = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.last_y + 10];
    return { x: canvas.left + (x + offset[0]) * scale, y: canvas.top + (y + offset[1]) * scale };
  }, name);
  await page.mouse.dblclick(place.x, place.y);
  const field = page.locator(".graphdialog input").first();
  await field.waitFor();
  await field.fill(text);
  await page.keyboard.press("Enter");
}

await visit(told, async (here) => {
  const { page, seen } = here;
  await here.load(told.graph, "RivuletStream", 0);
  seen.typed = [];
  for (const rate of told.rates) {
    await type(here, "fps", rate);
    await here.shot(`fps-${rate}`);
    seen.typed.push((await sent(page)).fps);
  }
  seen.saved = await page.evaluate(async () => {
    const { app } = await import("/scripts/app.js");
    const before = JSON.parse(JSON.stringify(app.graph.serialize()));
    await app.loadGraphData(before);
    const { output } = await app.graphToPrompt();
    return Object.values(output).find((node) => node.class_type === "RivuletStream").inputs.fps;
  });
  seen.options = await page.evaluate(async () => {
    const { app } = await import("/scripts/app.js");
    const node = app.graph.nodes.find((each) => each.comfyClass === "RivuletStream");
    const { step, step2, precision, round } = node.widgets.find((each) => each.name === "fps").options;
    return { step, step2, precision, round };
  });
});
