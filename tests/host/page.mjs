// Runs a graph in ComfyUI's own page and prints what a person there would see, as one JSON object.
//
//     node page.mjs '{"url": ..., "graph": {...}, "vue": false, "prompt": "...", "shots": "folder"}'
//
// PLAYWRIGHT_CORE names an installed playwright-core, CHROMIUM the browser.

import { createRequire } from "node:module";

const { chromium } = createRequire(import.meta.url)(process.env.PLAYWRIGHT_CORE);
const { url, graph, vue, prompt, shots } = JSON.parse(process.argv[2]);
const PATIENCE_MILLISECONDS = 60_000;
const seen = { errors: [] };

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
});
const page = await browser.newPage({ viewport: { width: 1000, height: 1200 } });
page.setDefaultTimeout(PATIENCE_MILLISECONDS);
page.on("pageerror", (error) => seen.errors.push(String(error.stack)));

async function set(name, value) {
  await fetch(`${url}/settings/${name}`, { method: "POST", body: JSON.stringify(value) });
}

/** Opens the page and waits until its graph can be used. */
async function open() {
  await page.goto(url);
  // scripts/app.js can be imported only when the page has made what it stands for
  await page.waitForFunction(() => {
    const app = globalThis.comfyAPI?.app?.app;
    return app?.extensionManager && globalThis.LiteGraph?.registered_node_types.RivuletStream && app.graph;
  });
  await page.evaluate(() => new Promise((done) => setTimeout(done, 1500)));
}

/** Puts the graph into the page, the stream node alone and large in the middle. */
function load() {
  return page.evaluate(async (graph) => {
    const { app } = await import("/scripts/app.js");
    await app.loadApiJson(graph, "stream");
    for (const node of app.graph.nodes) {
      const stream = node.comfyClass === "RivuletStream";
      node.pos = stream ? [0, 0] : [-1500, 400 * Number(node.id)];
      if (!stream) continue;
      node.size = [420, 1100];
      node.widgets.find((widget) => widget.name === "control_after_generate").value = "fixed";
    }
    Object.assign(app.canvas.ds, { scale: 0.9, offset: [300, 110] });
    app.canvas.setDirty(true, true);
  }, graph);
}

const queue = () => page.evaluate(async () => (await import("/scripts/app.js")).app.queuePrompt(0));
const state = () => fetch(`${url}/rivulet/streams`).then((answer) => answer.json()).then((told) => told.streams[0]);
const rest = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

const post = (path, value) => fetch(`${url}${path}`, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value),
});

/** Another client runs the same node of the same workflow: what the widget shows of that. */
async function beside() {
  const id = await page.evaluate(async () => {
    const { graph } = (await import("/scripts/app.js")).app;
    // some front ends give no id to a graph that came without one
    if (graph.id.startsWith("00000000")) graph.id = "6f6d3a4e-0000-4000-8000-000000000001";
    return graph.id;
  });
  await post("/prompt", { prompt: graph, client_id: "another", extra_data: { extra_pnginfo: { workflow: { id } } } });
  await until((now) => now.frames > 0 && now.workflow === id);
  await page.locator(".rivulet .offer button").first().waitFor();
  const shown = await page.locator(".rivulet .screen").first().isVisible();
  await post(`/rivulet/stream/${(await state()).session}/control`, { viewer: "another", number: 1, do: "stop" });
  await until((now) => now.phase === "ended");
  return shown;
}

async function until(question) {
  const end = Date.now() + PATIENCE_MILLISECONDS;
  while (Date.now() < end) {
    const now = await state();
    if (now && question(now)) return now;
    await rest(0.1);
  }
  throw new Error(`the stream never came to ${question}: ${JSON.stringify(await state())}`);
}

/** Waits for a picture in the widget; returns the seconds that took. */
async function firstPicture() {
  const began = Date.now();
  await page.waitForFunction(() => document.querySelector(".rivulet video")?.readyState >= 2, null, { polling: 50 });
  return (Date.now() - began) / 1000;
}

/** The middle row of the picture that is shown: [seconds, red, green, blue, red, ...]. */
function look() {
  return page.evaluate(() => {
    const video = document.querySelector(".rivulet video");
    const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
    const drawn = canvas.getContext("2d");
    drawn.drawImage(video, 0, 0, 64, 64);
    return [video.currentTime, ...drawn.getImageData(0, 0, 64, 64).data];
  });
}

async function moves() {
  const before = await look();
  for (let i = 0; i < 100; i += 1) {
    await rest(0.2);
    const after = await look();
    if (after[0] > before[0] && after.slice(1).some((value, at) => Math.abs(value - before[at + 1]) > 20)) return true;
  }
  return false;
}

const words = (part) => page.locator(`.rivulet .${part}`).first().innerText();
const press = (name) => page.locator(`.rivulet button:has-text("${name}")`).first().click();
const shot = (name) => page.screenshot({ path: `${shots}/${name}-${vue ? "nodes2" : "litegraph"}.png` });

try {
  await set("Comfy.VueNodes.Enabled", vue);
  await set("Comfy.TutorialCompleted", true);
  await open();
  await load();
  seen.showsAnothers = await beside();
  await queue();
  seen.firstPictureSeconds = await firstPicture();
  seen.vue = await page.evaluate(() => Boolean(globalThis.LiteGraph?.vueNodesMode));
  seen.moves = await moves();
  await shot("running");

  await press("Pause making");
  const paused = await until((now) => now.phase === "paused");
  await rest(3);
  seen.madeWhilePaused = (await state()).block - paused.block;
  await page.waitForFunction(() => document.querySelector(".rivulet .phase").textContent === "Making is paused");
  await shot("paused");

  await page.fill(".rivulet input[type=text]", prompt);
  seen.offeredFirst = await page.locator(".rivulet select").first().inputValue();
  await page.selectOption(".rivulet select", "smooth");
  await press("Change");
  await until((now) => now.pending.some((each) => each.prompt === prompt));
  await press("Resume making");
  const told = await until((now) => now.prompt_count === 2);
  await until((now) => now.block >= told.block + 2);

  await page.reload();
  await open();
  if (!(await page.locator(".rivulet").count())) await load();
  await firstPicture();
  seen.movesAfterReload = await moves();
  seen.phaseAfterReload = await words("phase");
  seen.captions = await page.evaluate(() => [...document.querySelectorAll(".rivulet .strip button")].map((span) => span.ariaLabel ?? span.title));
  await shot("reloaded");

  await press("Stop and keep");
  const ended = await until((now) => now.phase === "ended");
  seen.session = ended.session;
  seen.file = ended.file;
  const link = page.locator(".rivulet a:has-text('Save the video')");
  await link.waitFor();
  seen.saves = [await link.getAttribute("href")];
  seen.theme = await page.evaluate(() => document.querySelector(".rivulet").dataset.theme);
  await shot("ended");

  await queue();
  const again = await until((now) => now.session !== ended.session && now.frames > 0);
  await page.locator(".rivulet button:has-text('Stop and keep')").first().click();
  await until((now) => now.session === again.session && now.phase === "ended");
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
} catch (error) {
  seen.errors.push(String(error.stack));
  await shot("failed");
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
