// ComfyUI's own page after its server was killed: what the stream node offers, and that it does it.
//
//     node cut_off_page.mjs '{"url": ..., "graph": {...}, "vue": false, "shots": "folder"}'

import { visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);

await visit(told, async (here) => {
  const { page, seen } = here;
  await here.load(told.graph);
  const offer = page.locator(".rivulet .cut-off");
  await offer.waitFor();
  seen.offer = await offer.locator("p").first().innerText();
  await here.shot("cut-off");
  await offer.locator("button.main").click();
  const gone = await here.until((now) => now.frames > told.frames);
  seen.session = gone.session;
  seen.offered = await offer.isVisible();
  await here.press("Stop and keep");
  seen.file = (await here.until((now) => now.session === gone.session && now.video)).file;
  await page.locator(".rivulet a:has-text('Save the video')").waitFor();
  await here.shot("cut-off-gone-on");
});
