// Runs a workflow that was run already, in the same page and in others, and prints what Stream Video shows each time.
//
//     node again_page.mjs '{"url": ..., "workflow": {...}, "graph": {...}, "text": "its prompt", "vue": false, "shots": "folder"}'

import { rm } from "node:fs/promises";

import { visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);

const PLAYER = ".rivulet-node";

/** Waits until a visible widget plays a finished file and knows its prompts; returns what is there. */
async function shown(here, name) {
  const { page } = here;
  await page.waitForFunction((player) => {
    const root = [...document.querySelectorAll(`${player} > .rivulet`)].find((each) => each.checkVisibility());
    const video = root?.querySelector("video");
    return root?.dataset.phase === "ended" && video.checkVisibility() && video.src.includes("/view?") && video.readyState >= 2 && root.querySelector(".caption").textContent;
  }, PLAYER, { timeout: 60_000 });
  const found = await page.evaluate((player) => {
    const root = [...document.querySelectorAll(`${player} > .rivulet`)].find((each) => each.checkVisibility());
    const words = (part) => root.querySelector(part).textContent;
    const there = (part) => root.querySelector(part).checkVisibility();
    const buttons = [...root.querySelectorAll("button, a")].filter((each) => each.checkVisibility()).map((each) => each.textContent);
    return { file: new URL(root.querySelector("video").src).searchParams.get("filename"), phase: words(".phase"), idle: there(".idle"), caption: words(".caption"), note: words(".note"), buttons };
  }, PLAYER);
  await here.shot(`again-${name}`);
  return found;
}

const set = (page, type, name, value) => page.evaluate(({ type, name, value }) => {
  const node = globalThis.comfyAPI.app.app.graph.nodes.find((each) => each.comfyClass === type);
  node.widgets.find((each) => each.name === name).value = value;
}, { type, name, value });

const widgetText = (page, part) => page.evaluate(({ player, part }) => {
  const root = [...document.querySelectorAll(`${player} > .rivulet`)].find((each) => each.checkVisibility());
  return root.querySelector(part).innerText;
}, { player: PLAYER, part });

await visit(told, async (here) => {
  const { seen } = here;
  const { workflow, graph } = told;
  const put = async (workflow) => {
    await here.loadWorkflow(workflow);
    await here.page.locator(`${PLAYER}:visible .idle`).first().waitFor({ state: "attached" });
  };
  const again = async (name) => {
    await here.queue();
    await here.page.waitForFunction((player) => [...document.querySelectorAll(`${player} .note`)].some((each) => each.checkVisibility() && each.textContent), PLAYER, { timeout: 60_000 });
    seen[name] = await shown(here, name);
  };

  await put(workflow);
  await here.queue();
  await here.until((now) => now.phase === "ended");
  seen.first = await shown(here, "first");
  await again("same");
  await here.page.reload();
  await here.open();
  seen.reloaded = await shown(here, "reloaded");

  await here.anew();
  await put(workflow);
  await here.page.locator(".rivulet .offer button").first().waitFor();
  seen.offer = await widgetText(here.page, ".offer");
  await here.shot("again-offer");
  await here.press("Show it here");
  seen.offered = await shown(here, "offered");

  await here.anew();
  await put({ ...workflow, id: undefined }); // as a template is, which gets another id in every page
  await again("fresh");
  await here.page.reload();
  await here.open();
  seen.freshReloaded = await shown(here, "fresh-reloaded");

  const text = (value) => set(here.page, "RivuletPrompts", "text", value);
  await text("a blue square on a green ground");
  await here.queue();
  await here.until((now) => now.phase === "ended");
  await here.page.waitForFunction(() => document.querySelector(".rivulet .caption").textContent.includes("blue square"));
  seen.other = await shown(here, "other");
  await text(told.text);
  await again("back");

  await here.anew();
  await here.load(graph);
  await here.queue();
  await here.until((now) => now.phase === "ended");
  seen.beside = await shown(here, "beside");
  await here.anew();
  await here.load({ ...graph, 5: { ...graph[5], inputs: { ...graph[5].inputs, filename_prefix: "saved_anew" } } });
  await again("besideAgain");

  await here.anew();
  await put({ ...workflow, id: "6f6d3a4e-0000-4000-8000-000000000003" });
  const inside = await here.page.evaluate(() => {
    const { app } = globalThis.comfyAPI.app;
    app.graph.convertToSubgraph(new Set([app.graph.nodes.find((each) => each.comfyClass === "RivuletStream")]));
    return app.graph.serialize();
  });
  await here.queue();
  await here.until((now) => now.phase === "ended");
  seen.inside = await shown(here, "inside");
  await here.anew();
  await put({ ...inside, id: undefined });
  await again("insideAgain");

  // the first stream's segments are not in memory any more by then, and its file is deleted
  await here.anew();
  await here.load({ ...graph, 4: { ...graph[4], inputs: { ...graph[4].inputs, seed: 4 } } });
  await here.queue();
  await here.until((now) => now.phase === "ended");
  const { streams } = await (await fetch(`${told.url}/rivulet/streams`)).json();
  const first = streams.find((each) => each.path.endsWith(seen.first.file));
  seen.media = first.media;
  await rm(first.path);
  await here.anew();
  await put(workflow);
  await here.press("Show it here");
  await here.page.locator(".rivulet .below > .trouble:not(:empty)").first().waitFor();
  seen.gone = await widgetText(here.page, ".below > .trouble");
  await here.shot("again-gone");
  await here.queue();
  await here.until((now) => now.phase === "ended");
  seen.anew = await shown(here, "anew");
});
