// Runs a workflow in ComfyUI's App mode, with Stream Video as its output, and prints which videos a person sees there.
//
//     node app_page.mjs '{"url": ..., "workflow": {...}, "vue": true, "shots": "folder"}'

import { rest, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);

/** Opens the workflow as an app. */
async function open({ page }) {
  await page.setViewportSize({ width: 1600, height: 1000 });
  await page.evaluate(async (workflow) => {
    const { app } = globalThis.comfyAPI.app;
    const stream = workflow.nodes.find((each) => each.type === "RivuletStream");
    workflow.extra = { ...workflow.extra, linearData: { inputs: [[stream.id, "seed"]], outputs: [stream.id] } };
    await app.loadGraphData(workflow);
    app.graph.nodes.find((each) => each.comfyClass === "RivuletStream").widgets.find((each) => each.name === "seconds").value = 1;
    await app.extensionManager.command.execute("Comfy.ToggleLinear");
  }, told.workflow);
}

/** Pixels of width of the largest video, once the file is there. */
async function widest({ page }, file) {
  await page.locator(`video[src*="${file}"], video:has(source[src*="${file}"])`).first().waitFor();
  await rest(1);
  return page.evaluate(() => Math.max(...[...document.querySelectorAll("video")].map((each) => each.getBoundingClientRect().width)));
}

await visit(told, async (here) => {
  const { seen } = here;
  await open(here);
  await here.queue();
  const ended = await here.until((now) => now.phase === "ended" && now.video);
  seen.file = ended.file;
  seen.widest = await widest(here, ended.file);
  await here.shot("app");
  await here.anew();
  await open(here);
  await here.queue();
  seen.widestAgain = await widest(here, ended.file);
  seen.made = (await here.state()).file;
  await here.shot("app-again");
});
