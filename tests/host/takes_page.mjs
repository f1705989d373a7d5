// Goes back in a running stream in ComfyUI's own page, then chooses a take to go on with; prints what was seen.
//
//     node takes_page.mjs '{"url": ..., "graph": {...}, "resume": {...}, "vue": false, "prompt": "...", "shots": "folder"}'

import { visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);
const { graph, resume, prompt } = told;
const FRAMES = 45; // made before anybody goes back

/** Holds the picture, also where its end was shown meanwhile: the button then plays it from the beginning. */
async function hold(page) {
  const button = page.locator(".rivulet .hold").first();
  const held = () => page.evaluate(() => document.querySelector(".rivulet .hold").title === "Play the picture");
  while (!(await held())) {
    await button.click();
    await page.waitForFunction(() => document.querySelector(".rivulet .hold").title !== "Play again");
  }
  await page.waitForFunction(() => document.querySelector(".rivulet video").paused);
}

/** Has the bar moved by `move` and waits until the picture of the last place that it named is shown. */
async function moved(page, move) {
  await page.evaluate(() => {
    const bar = document.querySelector(".rivulet input[type=range]");
    bar.addEventListener("input", () => (bar.dataset.wanted = bar.value));
  });
  await move(page.locator(".rivulet input[type=range]").first());
  await page.waitForFunction(() => {
    const [bar, video] = [".rivulet input[type=range]", ".rivulet video"].map((each) => document.querySelector(each));
    const there = Math.abs(video.currentTime - Number(bar.dataset.wanted)) < 0.01;
    return there && video.paused && !video.seeking && video.readyState >= 2;
  });
}

/** Drags the bar to a part of its width, as a hand does. */
const drag = (page, part) => moved(page, async (bar) => {
  const box = await bar.boundingBox();
  const y = box.y + box.height / 2;
  await page.mouse.move(box.x + box.width - 8, y);
  await page.mouse.down();
  for (let step = 1; step <= 5; step += 1) await page.mouse.move(box.x + box.width * (1 - (step * (1 - part)) / 5), y);
  await page.mouse.up();
});

async function goBack(here) {
  const { page, seen } = here;
  await here.queue();
  const first = await here.until((now) => now.frames >= FRAMES && now.can_redo);
  seen.first = first.session;
  await hold(page);
  await drag(page, 0.4);
  await here.press("Redo from here");
  await page.locator(".rivulet .redo textarea").first().waitFor();
  seen.held = await here.look();
  seen.prefilled = await page.inputValue(".rivulet .redo textarea");
  seen.label = await page.locator(".rivulet .redo label").innerText();
  await page.fill(".rivulet .redo textarea", prompt);
  await page.selectOption(".rivulet .redo select >> nth=0", "cut");
  await here.shot("redo");
  const sent = page.waitForRequest((request) => request.url().endsWith("/control") && request.postDataJSON().do === "redo");
  await page.locator(".rivulet .redo button.main").click();
  seen.sent = (await sent).postDataJSON();
  const second = await here.until((now) => now.session !== first.session && now.frames > seen.sent.frame + 26);
  seen.second = second.session;
  await page.waitForFunction(() => document.querySelector(".rivulet .note").textContent.includes("Made again from"));
  await page.waitForFunction(() => document.querySelector(".rivulet video").readyState >= 2);
  seen.note = await here.words("note");
  await here.shot("redone");
  await here.press("Stop and keep");
  await page.locator(".rivulet a:has-text('Save the video')").waitFor();
  const ended = await here.until((now) => now.session === second.session && now.video);
  seen.file = ended.file;
  // the finished file, at a picture well behind the border
  await page.waitForFunction((id) => document.querySelector(".rivulet video").src.includes(`take=${id}`), ended.session);
  const made = ended.frames / ended.fps;
  await page.waitForFunction(() => document.querySelector(".rivulet video").readyState >= 2);
  await hold(page);
  await moved(page, (bar) => bar.fill(String(made - 0.5)));
  seen.after = await here.look();
  await here.shot("redone-ended");
}

/** Goes back once more after the end, with another seed: through the queue. */
async function goBackLater(here) {
  const { page, seen } = here;
  await moved(page, (bar) => bar.fill("1.5"));
  await here.press("Redo from here");
  await page.selectOption(".rivulet .redo select >> nth=1", "number");
  await page.fill(".rivulet .redo .number", "77");
  const sent = page.waitForRequest((request) => request.url().endsWith("/go-on"));
  await page.locator(".rivulet .redo button.main").click();
  seen.later = (await sent).postDataJSON();
  const third = await here.until((now) => now.session !== seen.second && now.frames > seen.later.frame + 26);
  await page.waitForFunction(() => document.querySelector(".rivulet .note").textContent.includes("Made again from 0:01"));
  seen.noteLater = await here.words("note");
  await here.press("Stop and keep");
  await here.until((now) => now.session === third.session && now.video);
}

async function choose(here) {
  const { page, seen } = here;
  await here.load(resume, "RivuletResume", 0);
  const takes = page.locator(".rivulet .take");
  await page.waitForFunction(() => document.querySelectorAll(".rivulet .take").length >= 2);
  await page.waitForFunction(() => [...document.querySelectorAll(".rivulet .take img")].some((image) => image.naturalWidth > 0));
  seen.rows = await takes.allInnerTexts();
  seen.places = await page.evaluate(async () => {
    const { app } = await import("/scripts/app.js");
    const node = app.graph.nodes.find((each) => each.comfyClass === "RivuletResume");
    const box = (element) => {
      const { left, top, right, bottom } = element.getBoundingClientRect();
      return { left, top, right, bottom };
    };
    const { scale, offset } = app.canvas.ds;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const [left, top] = [0, 1].map((at) => [canvas.left, canvas.top][at] + (node.pos[at] + offset[at]) * scale);
    const drawn = { left, top, right: left + node.size[0] * scale, bottom: top + node.size[1] * scale };
    // where nodes are elements of the page, their boxes are what is seen, not the numbers of the graph
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const inner = element?.querySelector('[data-testid="node-inner-wrapper"]') ?? element;
    const inPage = Boolean(globalThis.LiteGraph.vueNodesMode);
    return { list: box(document.querySelector(".rivulet.takes")), node: inPage ? box(inner) : drawn };
  });
  const value = () => page.evaluate(async () => {
    const { app } = await import("/scripts/app.js");
    const node = app.graph.nodes.find((each) => each.comfyClass === "RivuletResume");
    return node.widgets.find((each) => ["take", "snapshot"].includes(each.name)).value;
  });
  await takes.nth(1).click();
  seen.clicked = [await takes.nth(1).getAttribute("data-name"), await value()];
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Enter");
  seen.keyed = [await takes.nth(0).getAttribute("data-name"), await value()];
  seen.selected = await page.locator(".rivulet .take[aria-selected=true]").getAttribute("data-name");
  await here.shot("takes");
  await page.locator(".rivulet.takes").screenshot({ path: `${here.shots}/takes-list-${here.vue ? "nodes2" : "litegraph"}.png` });
}

await visit(told, async (here) => {
  await here.load(graph);
  await goBack(here);
  await goBackLater(here);
  await choose(here);
});
