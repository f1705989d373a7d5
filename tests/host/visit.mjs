// ComfyUI's own page in Chromium, and what every script here does with it.
//
// PLAYWRIGHT_CORE names an installed playwright-core, CHROMIUM the browser.

import { createRequire } from "node:module";

const { chromium } = createRequire(import.meta.url)(process.env.PLAYWRIGHT_CORE);
const PATIENCE_MILLISECONDS = 300_000; // of a page on a machine that others use too

export const rest = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/** What `ask` answers once that is not `before` any more, and not about to change further: pages move things in steps. */
export async function settled(ask, before) {
  const end = Date.now() + PATIENCE_MILLISECONDS;
  let [known, same] = [JSON.stringify(before), 0];
  while (Date.now() < end) {
    await rest(0.2);
    const now = JSON.stringify(await ask());
    same = now === known ? same + 1 : 0;
    known = now;
    if (same >= 2 && now !== JSON.stringify(before)) return JSON.parse(now);
  }
  throw new Error(`still ${JSON.stringify(before)}: ${ask}`);
}

/**
 * Runs `act(visit)` in a page of its own and prints what it put into `visit.seen`, as one JSON object. `told` is what the
 * test told: {url, vue, shots, ...}; errors of the page and of the script are in `seen.errors`.
 */
export async function visit(told, act) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
  });
  const here = new Visit(browser, told);
  here.take(await browser.newPage({ viewport: { width: 1000, height: 1700 } }));
  try {
    await here.set("Comfy.VueNodes.Enabled", told.vue);
    await here.set("Comfy.TutorialCompleted", true);
    if (told.palette) await here.set("Comfy.ColorPalette", told.palette);
    await here.open();
    await act(here);
  } catch (error) {
    here.seen.errors.push(String(error.stack));
    await here.shot("failed");
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify(here.seen));
}

class Visit {
  constructor(browser, { url, vue, shots }) {
    Object.assign(this, { browser, url, vue, shots, page: null, before: undefined, seen: { errors: [] } });
  }

  async set(name, value) {
    await fetch(`${this.url}/settings/${name}`, { method: "POST", body: JSON.stringify(value) });
  }

  /** Opens the page and waits until its graph can be used: until it has brought one of its own, which a slow page does late. */
  async open() {
    await this.page.goto(`${this.url}/`);
    // scripts/app.js can be imported only when the page has made what it stands for
    await this.page.waitForFunction(() => {
      const app = globalThis.comfyAPI?.app?.app;
      const known = app?.extensionManager && globalThis.LiteGraph?.registered_node_types.RivuletStream;
      return known && app.graph?.nodes.length;
    });
    await rest(1.5);
  }

  /** Closes the page and opens one that knows nothing of it, as another browser would. */
  async anew() {
    const size = this.page.viewportSize();
    await this.page.close();
    this.take(await this.browser.newPage({ viewport: size }));
    await this.open();
  }

  take(page) {
    this.page = page;
    page.setDefaultTimeout(PATIENCE_MILLISECONDS);
    page.on("pageerror", (error) => this.seen.errors.push(String(error.stack)));
  }

  /** Puts a graph into the page, one kind of node alone and large in the middle, as high as told. */
  load(graph, shown = "RivuletStream", height = 1100) {
    return this.page.evaluate(async ({ graph, shown, height }) => {
      const { app } = await import("/scripts/app.js");
      const second = () => new Promise((done) => setTimeout(done, 1000));
      const place = (node) => (node.comfyClass === shown ? [0, 0] : [-1500, 400 * Number(node.id)]);
      // a slow page may still be about to bring a graph, which would be added to this one or put in its place
      do {
        app.graph.clear();
        await app.loadApiJson(graph, "stream");
        await second();
        for (const node of app.graph.nodes) {
          node.pos = place(node);
          const after = node.widgets?.find((widget) => widget.name === "control_after_generate");
          if (after) after.value = "fixed";
          if (node.comfyClass === shown && height) node.size = [420, height];
        }
        await second();
      } while (
        app.graph.nodes.length !== Object.keys(graph).length ||
        app.graph.nodes.some((node) => place(node).some((wanted, at) => node.pos[at] !== wanted))
      );
      Object.assign(app.canvas.ds, { scale: 0.9, offset: [300, 110] });
      app.canvas.setDirty(true, true);
    }, { graph, shown, height });
  }

  /** Puts a saved workflow into a page of 1600 by 1000 pixels. */
  async loadWorkflow(workflow) {
    await this.page.setViewportSize({ width: 1600, height: 1000 });
    this.page.setDefaultTimeout(60_000);
    await this.page.evaluate((workflow) => globalThis.comfyAPI.app.app.loadGraphData(workflow), workflow);
  }

  /** The picture that is shown: {seconds, pixels: [red, green, blue, red, ...] of 64 by 64}. */
  look() {
    return this.page.evaluate(() => {
      const video = document.querySelector(".rivulet video");
      const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
      const drawn = canvas.getContext("2d");
      drawn.drawImage(video, 0, 0, 64, 64);
      const pixels = [...drawn.getImageData(0, 0, 64, 64).data].filter((_, i) => i % 4 < 3);
      return { seconds: video.currentTime, pixels };
    });
  }

  /** Queues the graph; `until` asks from then on about streams that begin after this. */
  async queue() {
    this.before = (await this.state())?.session;
    return this.page.evaluate(async () => (await import("/scripts/app.js")).app.queuePrompt(0));
  }

  /** The state of the newest stream. */
  async state() {
    const answer = await fetch(`${this.url}/rivulet/streams`);
    return (await answer.json()).streams[0];
  }

  async post(path, value) {
    return fetch(`${this.url}${path}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value),
    });
  }

  /** The first state for which a question holds, of the newest stream that was not there when the page queued one. */
  async until(question) {
    const end = Date.now() + PATIENCE_MILLISECONDS;
    while (Date.now() < end) {
      const now = await this.state();
      if (now && now.session !== this.before && question(now)) return now;
      await rest(0.1);
    }
    throw new Error(`the stream never came to ${question}: ${JSON.stringify(await this.state())}`);
  }

  words(part) {
    return this.page.locator(`.rivulet .${part}`).first().innerText();
  }

  press(name) {
    return this.page.locator(`.rivulet button:has-text("${name}")`).first().click();
  }

  shot(name, more = {}) {
    return this.page.screenshot({ path: `${this.shots}/${name}-${this.vue ? "nodes2" : "litegraph"}.png`, ...more });
  }
}
