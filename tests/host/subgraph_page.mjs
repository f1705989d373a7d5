// Puts Stream Video into a subgraph in ComfyUI's own page and prints what the subgraph's node shows of a run.
//
//     node subgraph_page.mjs '{"url": ..., "workflow": {...}, "vue": false, "shots": "folder"}'

import { rest, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);

await visit(told, async (here) => {
  const { page, seen } = here;
  await here.loadWorkflow(told.workflow);
  await page.evaluate(() => {
    const { app } = globalThis.comfyAPI.app;
    const stream = app.graph.nodes.find((each) => each.comfyClass === "RivuletStream");
    app.graph.convertToSubgraph(new Set([stream]));
  });
  await page.locator(".rivulet-node:visible .idle").first().waitFor();
  await rest(1);
  await here.shot("subgraph-idle");
  await here.queue();
  await page.waitForFunction(() => [...document.querySelectorAll(".rivulet video")].some((each) => each.checkVisibility() && each.readyState >= 2));
  const { node } = await here.state();
  await rest(2);
  await here.shot("subgraph-running");
  seen.outer = await page.evaluate(async (path) => {
    const { app } = globalThis.comfyAPI.app;
    const outer = app.graph.nodes.find((each) => String(each.id) === path.split(":")[0]);
    const shown = [...document.querySelectorAll(".rivulet-node > .rivulet")].filter((each) => each.checkVisibility());
    const box = shown[0].getBoundingClientRect();
    const { scale, offset } = app.canvas.ds;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const left = canvas.left + (outer.pos[0] + offset[0]) * scale;
    const bottom = canvas.top + (outer.pos[1] + outer.size[1] + offset[1]) * scale;
    const element = document.querySelector(`[data-node-id="${outer.id}"]`)?.getBoundingClientRect();
    return {
      path, widgets: shown.length, pictures: [...document.querySelectorAll("video")].filter((each) => each.checkVisibility()).length,
      inside: box.left >= left && box.right <= left + outer.size[0] * scale + 1 && box.bottom <= (element?.bottom ?? bottom) + 1,
    };
  }, node);
  await page.locator(".rivulet-node:visible button:has-text('Stop and keep')").first().click();
  await here.until((now) => now.phase === "ended");
  seen.stopped = true;
});
