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

const SIZES = { desk: { width: 1280, height: 800 }, phone: { width: 390, height: 844 } };

/** Names of what does not lie within a window of a size without scrolling, by the size's name. */
async function hiddenIn(parts) {
  const hidden = [];
  for (const [name, size] of Object.entries(SIZES)) {
    await page.setViewportSize(size);
    await page.reload(); // as who comes with this window
    await page.waitForFunction(() => document.querySelector(".rivulet video").readyState >= 2);
    for (const [part, locator] of Object.entries(parts)) {
      const box = await locator.boundingBox();
      const inside = box && box.x >= 0 && box.y >= 0 && box.x + box.width <= size.width && box.y + box.height <= size.height;
      if (!inside) hidden.push(`${part} (${name})`);
    }
    await shot(`running-${name}`);
  }
  await page.setViewportSize(SIZES.desk);
  return hidden;
}

/** Black bars: by how many pixels the picture is larger than what it shows. */
function bars() {
  return page.evaluate(() => {
    const video = document.querySelector(".rivulet video");
    const box = video.getBoundingClientRect();
    return Math.abs(box.width - (box.height * video.videoWidth) / video.videoHeight);
  });
}

/** Whether a text is shown whole: its box has room for it, and lies in the window. */
function isWhole(selector) {
  return page.locator(selector).evaluate((element) => {
    const box = element.getBoundingClientRect();
    return element.scrollHeight <= element.clientHeight + 1 && box.bottom <= innerHeight;
  });
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
  const examples = page.locator("#examples button");
  const all = { ...parts, picture: page.locator(".rivulet video"), first: examples.first(), last: examples.last() };
  seen.hidden = await hiddenIn(all);
  seen.bars = await bars();
  seen.modeShown = await page.locator(".rivulet .next select").isVisible();
  await parts.prompt.fill("a purple dog");
  await button("Change").click();
  await word("does not know 'purple', 'dog'");
  seen.refusal = await page.locator(".rivulet .next .told").innerText();
  seen.refusalIsWhole = await isWhole(".rivulet .next .told");
  await page.locator("#examples button").first().click();
  await word("is seen from");
  await parts.prompt.fill(prompt);
  await button("Change").click();
  await word(`“${prompt}” is seen from`);
  await page.waitForFunction(() => document.querySelectorAll(".rivulet .strip button").length === 3);
  // along the prompts by keys, since a short one is narrow
  await page.locator('.rivulet .strip button[tabindex="0"]').focus();
  await page.keyboard.press("End");
  await page.keyboard.press("ArrowLeft");
  seen.reached = await page.evaluate(() => document.activeElement.ariaLabel);
  await page.keyboard.press("Home");
  await page.waitForFunction(() => document.querySelector(".rivulet video").currentTime < 1);
  seen.tabStops = await page.locator('.rivulet .strip button[tabindex="0"]').count();
  await shot("running");
  await parts.pause.click();
  await word("Making is paused");
  await button("Resume making").click();
  await parts.stop.click();
  await word("Stopped by you at");
  await page.waitForFunction(() => document.querySelector(".rivulet video").ended);
  const again = page.locator('.rivulet button[aria-label="Play again"], .rivulet button[title="Play again"]');
  await again.waitFor();
  seen.endsAt = await playhead();
  await shot("ended");
  await again.click();
  await page.waitForFunction((end) => document.querySelector(".rivulet video").currentTime < end / 2, seen.endsAt);
  seen.playsAgain = await plays();
  seen.saves = await page.locator(".rivulet a[download]").getAttribute("href");
  await page.locator(".rivulet .loop").click();
  await page.locator('.rivulet button[title="Play from the beginning"]').click();
  for (const half of ["second", "first", "second"]) {
    await page.waitForFunction(([end, which]) => {
      return document.querySelector(".rivulet video").currentTime < end / 2 === (which === "first");
    }, [seen.endsAt, half]);
  }
  seen.loops = true;
  seen.opens = await page.locator(".rivulet .saved a").getAttribute("href");
  const path = await page.locator(".rivulet .path").getAttribute("title");

  await page.locator("#wanted").fill("a purple dog");
  await page.locator("#wanted").press("Enter");
  await page.waitForFunction(() => document.querySelector("#refused").textContent.includes("does not know 'purple', 'dog'"));
  seen.refusedIsWhole = await isWhole("#refused");
  await page.locator("#examples button").nth(1).click();
  await page.waitForFunction(() => document.querySelector(".rivulet .phase").textContent === "Running");
  seen.caption = await page.locator(".rivulet .caption").innerText();
  await button("Stop and keep").click();
  await word("Stopped by you at");
  await page.locator(".rivulet .path").waitFor();
  seen.paths = [path, await page.locator(".rivulet .path").getAttribute("title")];
} catch (error) {
  seen.errors.push(String(error.stack));
  await shot("failed");
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
