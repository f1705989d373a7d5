// Uses the demo's page as a newcomer would and prints what was there to see, as one JSON object.
//
//     node page.mjs '{"url": ..., "prompt": "...", "shots": "folder"}'
//
// PLAYWRIGHT_CORE names an installed playwright-core, CHROMIUM the browser.

import { createRequire } from "node:module";

const { chromium } = createRequire(import.meta.url)(process.env.PLAYWRIGHT_CORE);
const { url, prompt, shots } = JSON.parse(process.argv[2]);
const seen = { errors: [] };

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
page.setDefaultTimeout(60_000);
page.on("pageerror", (error) => seen.errors.push(String(error.stack)));
page.on("console", (line) => line.type() === "error" && seen.errors.push(line.text()));

const button = (name) => page.locator(`.rivulet button:has-text("${name}")`);
const shot = (name) => page.screenshot({ path: `${shots}/demo-${name}.png` });
const word = (text) => page.waitForFunction((words) => document.body.innerText.includes(words), text);

/** Whether an element lies within the window, without scrolling. */
async function inWindow(locator) {
  const box = await locator.boundingBox();
  return box !== null && box.x >= 0 && box.y >= 0 && box.x + box.width <= 1280 && box.y + box.height <= 800;
}

const playhead = () => page.evaluate(() => document.querySelector(".rivulet video").currentTime);

async function plays() {
  const before = await playhead();
  await page.waitForFunction((at) => {
    const video = document.querySelector(".rivulet video");
    return !video.paused && video.currentTime > at;
  }, before);
  return true;
}

try {
  await page.goto(url);
  await page.waitForFunction(() => document.querySelector(".rivulet video").readyState >= 2);
  seen.plays = await plays();
  const parts = { pause: button("Pause making"), stop: button("Stop and keep"), prompt: page.locator(".rivulet .next textarea") };
  seen.hidden = [];
  for (const [name, part] of Object.entries(parts)) if (!(await inWindow(part))) seen.hidden.push(name);
  seen.modeShown = await page.locator(".rivulet .next select").isVisible();
  await parts.prompt.fill("a purple dog");
  await button("Change").click();
  await word("does not know 'purple', 'dog'");
  await page.locator("#examples button").first().click();
  await word("is seen from");
  await parts.prompt.fill(prompt);
  await button("Change").click();
  await word(`“${prompt}” is seen from`);
  await page.waitForFunction(() => document.querySelectorAll(".rivulet .strip button").length === 3);
  await shot("running");
  await parts.pause.click();
  await word("Making is paused");
  await button("Resume making").click();
  await parts.stop.click();
  await word("Finished");
  await page.waitForFunction(() => document.querySelector(".rivulet video").ended);
  const again = page.locator('.rivulet button[aria-label="Play again"], .rivulet button[title="Play again"]');
  await again.waitFor();
  seen.endsAt = await playhead();
  await shot("ended");
  await again.click();
  await page.waitForFunction((end) => document.querySelector(".rivulet video").currentTime < end / 2, seen.endsAt);
  seen.playsAgain = await plays();
  seen.saves = await page.locator(".rivulet a").getAttribute("href");
  seen.examplesAfter = await page.locator("#examples").isVisible();
} catch (error) {
  seen.errors.push(String(error.stack));
  await shot("failed");
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
