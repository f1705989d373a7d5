// Runs a workflow in ComfyUI's App mode, with Stream Video as its output, and prints which videos a person sees there.
//
//     node app_page.mjs '{"url": ..., "workflow": {...}, "vue": true, "shots": "folder"}'

import { rest, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);

await visit(told, async (here) => {
  const { page, seen } = here;
  await page.setViewportSize({ width: 1600, height: 1000 });
  await page.evaluate(async (workflow) => {
    const { app } = globalThis.comfyAPI.app;
    const stream = workflow.nodes.find((each) => each.type === "RivuletStream");
    workflow.extra = { ...workflow.extra, linearData: { inputs: [[stream.id, "seed"]], outputs: [stream.id] } };
    await app.loadGraphData(workflow);
    app.graph.nodes.find((each) => each.comfyClass === "RivuletStream").widgets.find((each) => each.name === "seconds").value = 1;
    await app.extensionManager.command.execute("Comfy.ToggleLinear");
  }, told.workflow);
  await here.queue();
  const ended = await here.until((now) => now.phase === "ended" && now.video);
  seen.file = ended.file;
  await page.locator(`video[src*="${ended.file}"], video:has(source[src*="${ended.file}"])`).first().waitFor();
  await rest(1);
  seen.widest = await page.evaluate(() => Math.max(...[...document.querySelectorAll("video")].map((each) => each.getBoundingClientRect().width)));
  await here.shot("app");
});
