// Plays with a stream in ComfyUI's own page and prints what a person there would see, as one JSON object.
//
//     node player_page.mjs '{"url": ..., "graph": {...}, "vue": false, "shots": "folder"}'

import { rest, settled, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);

/** Notes every text that one of the widget's elements shows from here on. */
async function noteWords(page) {
  await page.evaluate(() => {
    globalThis.noted = [];
    const note = () => {
      const shown = [...document.querySelectorAll(".rivulet :is(.phase, .idle)")].find((each) => each.checkVisibility());
      if (shown && globalThis.noted.at(-1) !== shown.textContent) globalThis.noted.push(shown.textContent);
    };
    note();
    new MutationObserver(note).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
  });
}

const noted = (page) => page.evaluate(() => globalThis.noted.splice(0, Infinity));
const seconds = (page) => page.evaluate(() => document.querySelector(".rivulet video").currentTime);
/** Waits until another picture is shown than at this second; nothing plays. */
const moved = (page, was) => page.waitForFunction((was) => document.querySelector(".rivulet video").currentTime !== was, was);
const word = (page, words) => page.waitForFunction((part) => document.querySelector(".rivulet .phase").textContent.includes(part), words);

/** Has the finished file come only when the returned function is called. */
async function holdFile(page) {
  let loads;
  const asked = new Promise((done) => (loads = done));
  await page.route("**/view?*", async (route) => {
    await asked;
    await route.continue();
  });
  return loads;
}

/** How the canvas moves under the wheel and under the middle button, both over the picture. */
async function canvasMoves(page) {
  const look = () => page.evaluate(async () => {
    const { ds } = (await import("/scripts/app.js")).app.canvas;
    return [ds.scale, ...ds.offset];
  });
  const box = await page.locator(".rivulet .screen").first().boundingBox();
  const middle = [box.x + box.width / 2, box.y + box.height / 2];
  const before = await settled(look, null);
  await page.mouse.move(...middle);
  await page.mouse.wheel(0, 120);
  const zoomed = await settled(look, before);
  await page.mouse.wheel(0, -120);
  const back = await settled(look, zoomed);
  await page.mouse.down({ button: "middle" });
  await page.mouse.move(middle[0] + 60, middle[1] + 40, { steps: 5 });
  await page.mouse.up({ button: "middle" });
  const dragged = await settled(look, back);
  return { zoom: zoomed[0] / before[0], drag: [1, 2].map((at) => (dragged[at] - back[at]) * back[0]) };
}

await visit(told, async (here) => {
  const { page, seen } = here;
  page.setDefaultTimeout(120_000);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await here.load(told.graph);
  await noteWords(page);
  await here.queue();
  await here.until((now) => now.frames > 60);
  await page.waitForFunction(() => document.querySelector(".rivulet video").currentTime > 2.5);
  seen.beforeFirst = await noted(page);
  seen.canvas = await canvasMoves(page);

  await page.focus(".rivulet .screen");
  await page.keyboard.press("Space");
  await page.waitForFunction(() => document.querySelector(".rivulet video").paused);
  await rest(0.6);
  seen.steps = [await seconds(page)];
  for (const key of ["ArrowLeft", "ArrowLeft", "ArrowRight", "Home"]) {
    await page.keyboard.press(key);
    await moved(page, seen.steps.at(-1));
    seen.steps.push(await seconds(page));
  }
  await here.shot("player-running");
  await page.keyboard.press("f");
  await rest(1);
  seen.full = await page.evaluate(() => {
    const box = document.querySelector(".rivulet .screen").getBoundingClientRect();
    return [box.width / innerWidth, document.querySelector(".rivulet .place").checkVisibility(), document.fullscreenElement !== null];
  });
  await here.shot("player-full");
  await page.keyboard.press("f");
  const loads = await holdFile(page);
  await here.press("Stop and keep");
  await word(page, "Stopped by you");
  seen.stopped = await here.words("phase");
  await page.waitForFunction(() => document.querySelector(".rivulet video").src.includes("/view?"));
  await rest(1);
  seen.loading = { time: await here.words("time"), poster: await page.evaluate(() => document.querySelector(".rivulet video").poster) };
  await here.shot("player-loading");
  loads();
  const ended = await here.until((now) => now.phase === "ended");
  [seen.session, seen.path, seen.view] = [ended.session, ended.path, ended.view];
  await page.locator(".rivulet .saved").first().waitFor();
  seen.pathShown = await here.words("path");
  await here.press("Copy path");
  await page.waitForFunction(() => document.querySelector(".rivulet .copied").textContent !== "");
  seen.copied = await page.evaluate(() => navigator.clipboard.readText());
  seen.opens = await page.evaluate(() => document.querySelector(".rivulet .saved a").href);
  await here.shot("player-stopped");

  await page.locator(".rivulet .icon.loop").first().click();
  await page.locator(".rivulet .icon.again").first().click();
  const length = ended.frames / ended.fps;
  await page.waitForFunction((end) => document.querySelector(".rivulet video").currentTime > end - 1, length);
  await page.waitForFunction((end) => document.querySelector(".rivulet video").currentTime < end / 2, length);
  seen.loops = true;

  // another client is before it in the queue; then it is taken out again
  await noted(page);
  await here.post("/prompt", { prompt: told.graph, client_id: "another" });
  await here.until((now) => now.session !== ended.session && now.frames > 0);
  await here.queue();
  await word(page, "Queued, 1 before it");
  await here.shot("player-queued");
  const { queue_pending: waiting } = await (await fetch(`${here.url}/queue`)).json();
  await here.post("/queue", { delete: waiting.map((each) => each[1]) });
  await word(page, "Stopped by you");
  await here.queue();
  await word(page, "Queued, 1 before it");
  await here.post(`/rivulet/stream/${(await here.state()).session}/control`, { viewer: "another", number: 1, do: "stop" });
  await word(page, "Running");
  seen.afterStop = await noted(page);
  await here.press("Stop and keep");
  await word(page, "Stopped by you");
});
