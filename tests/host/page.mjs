// Runs a graph in ComfyUI's own page and prints what a person there would see, as one JSON object.
//
//     node page.mjs '{"url": ..., "graph": {...}, "vue": false, "prompt": "...", "shots": "folder"}'

import { rest, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);
const { graph, prompt } = told;
const MOST_MILLISECONDS = 180_000;

/** Another client runs the same node of the same workflow: what the widget shows of that. */
async function beside(here) {
  const { page } = here;
  const id = await page.evaluate(async () => {
    const { graph } = (await import("/scripts/app.js")).app;
    // some front ends give no id to a graph that came without one
    if (graph.id.startsWith("00000000")) graph.id = "6f6d3a4e-0000-4000-8000-000000000001";
    return graph.id;
  });
  await here.post("/prompt", { prompt: graph, client_id: "another", extra_data: { extra_pnginfo: { workflow: { id } } } });
  await here.until((now) => now.frames > 0 && now.workflow === id);
  await page.locator(".rivulet .offer button").first().waitFor();
  const shown = await page.locator(".rivulet .screen").first().isVisible();
  await here.post(`/rivulet/stream/${(await here.state()).session}/control`, { viewer: "another", number: 1, do: "stop" });
  await here.until((now) => now.phase === "ended");
  return shown;
}

/** Waits for a picture in the widget; returns the seconds that took. */
async function firstPicture(page) {
  const began = Date.now();
  await page.waitForFunction(() => document.querySelector(".rivulet video")?.readyState >= 2, null, { polling: 50 });
  return (Date.now() - began) / 1000;
}

/** Waits for a later and another picture, however slowly they are made here. */
async function moves(here) {
  const before = await here.look();
  for (const end = Date.now() + MOST_MILLISECONDS; Date.now() < end; await rest(0.2)) {
    const after = await here.look();
    const differs = after.pixels.some((value, at) => Math.abs(value - before.pixels[at]) > 20);
    if (after.seconds > before.seconds && differs) return true;
  }
  return false;
}

await visit(told, async (here) => {
  const { page, seen } = here;
  await here.load(graph);
  seen.showsAnothers = await beside(here);
  await here.queue();
  seen.firstPictureSeconds = await firstPicture(page);
  seen.vue = await page.evaluate(() => Boolean(globalThis.LiteGraph?.vueNodesMode));
  seen.moves = await moves(here);
  await here.shot("running");

  await here.press("Pause making");
  const paused = await here.until((now) => now.phase === "paused");
  await rest(3);
  seen.madeWhilePaused = (await here.state()).block - paused.block;
  await page.waitForFunction(() => document.querySelector(".rivulet .phase").textContent === "Making is paused");
  await here.shot("paused");

  await page.fill(".rivulet .next textarea", prompt);
  seen.offeredFirst = await page.locator(".rivulet .next select").first().inputValue();
  await page.selectOption(".rivulet .next select", "smooth");
  await here.press("Change");
  await here.until((now) => now.pending.some((each) => each.prompt === prompt));
  await here.press("Resume making");
  const changed = await here.until((now) => now.prompt_count === 2);
  await here.until((now) => now.block >= changed.block + 2);

  await page.reload();
  await here.open();
  // the page brings its graph back itself, in its own time
  await page.locator(".rivulet").first().waitFor({ timeout: 20_000 }).catch(() => here.load(graph));
  await firstPicture(page);
  seen.movesAfterReload = await moves(here);
  seen.phaseAfterReload = await here.words("phase");
  seen.captions = await page.evaluate(() => [...document.querySelectorAll(".rivulet .strip button")].map((span) => span.ariaLabel ?? span.title));
  await here.shot("reloaded");

  await here.press("Stop and keep");
  const ended = await here.until((now) => now.phase === "ended");
  seen.session = ended.session;
  seen.file = ended.file;
  const link = page.locator(".rivulet a:has-text('Save the video')");
  await link.waitFor();
  seen.saves = [await link.getAttribute("href")];
  seen.theme = await page.evaluate(() => document.querySelector(".rivulet").dataset.theme);
  await here.shot("ended");

  await here.queue();
  const again = await here.until((now) => now.session !== ended.session && now.frames > 0);
  await page.locator(".rivulet button:has-text('Stop and keep')").first().click();
  await here.until((now) => now.session === again.session && now.phase === "ended");
  await link.waitFor();
  seen.saves.push(await link.getAttribute("href"));
  seen.again = again.session;

  seen.restored = await page.evaluate(async (session) => {
    const { app } = await import("/scripts/app.js");
    const { api } = await import("/scripts/api.js");
    const bytes = await (await api.fetchApi(`/rivulet/stream/${session}/video`)).arrayBuffer();
    app.graph.clear();
    await app.handleFile(new File([bytes], "take.mp4", { type: "video/mp4" }));
    return app.graph.nodes.map((node) => node.type);
  }, ended.session);
});
