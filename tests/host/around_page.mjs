// What lies around the preview in ComfyUI's own page: its theme, the canvas below it, the keys that are the page's.
//
//     node around_page.mjs '{"url": ..., "workflow": {...}, "vue": false, "shots": "folder"}'

import { rest, settled, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);
const LETTERS = "rbgmqwnpc .1?";

await visit(told, async (here) => {
  const { page, seen } = here;
  await here.loadWorkflow(told.workflow);
  const idle = page.locator(".rivulet-node .idle");
  await idle.waitFor();

  const look = () => page.evaluate(() => {
    const style = getComputedStyle(document.querySelector(".rivulet-node > .rivulet"));
    return { ground: style.backgroundColor, ink: style.color, scheme: style.colorScheme };
  });
  seen.themes = {};
  for (const palette of ["light", "dark"]) {
    const before = await look();
    await page.evaluate((name) => globalThis.comfyAPI.app.app.extensionManager.setting.set("Comfy.ColorPalette", name), palette);
    seen.themes[palette] = await settled(look, before);
    await here.shot(`around-${palette}`);
  }

  const view = () => page.evaluate(() => {
    const { scale, offset } = globalThis.comfyAPI.app.app.canvas.ds;
    return { scale, offset: [...offset] };
  });
  const middle = async () => {
    const box = await page.locator(".rivulet-node").boundingBox();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  let [x, y] = await middle();
  await page.mouse.move(x, y);
  const first = await settled(view, null);
  await page.mouse.wheel(0, 240);
  const zoomed = await settled(view, first);
  seen.zoomed = zoomed.scale / first.scale;
  [x, y] = await middle();
  await page.mouse.move(x, y);
  await page.mouse.down({ button: "middle" });
  await page.mouse.move(x + 40, y + 25, { steps: 5 });
  await page.mouse.up({ button: "middle" });
  const moved = await settled(view, zoomed);
  seen.moved = [0, 1].map((i) => (moved.offset[i] - zoomed.offset[i]) * zoomed.scale);

  // a field, as a run shows it
  await page.evaluate(() => {
    const root = document.querySelector(".rivulet-node > .rivulet");
    root.append(root.querySelector(".next textarea"));
  });
  const field = page.locator(".rivulet-node > .rivulet > textarea");
  const graph = () => page.evaluate(() => {
    const { app } = globalThis.comfyAPI.app;
    return [app.graph.nodes.map((node) => [node.id, node.mode, { ...node.flags }]), app.canvas.graph.nodes.length];
  });
  const nodes = JSON.stringify(await graph());
  await field.focus();
  await page.keyboard.type(LETTERS);
  for (const key of ["Delete", "Backspace", "Control+a", "Control+m", "Control+b"]) await page.keyboard.press(key);
  await rest(0.5);
  seen.typed = [LETTERS, await field.inputValue()];
  seen.untouched = JSON.stringify(await graph()) === nodes;
  seen.dialogs = await page.locator("[role=dialog]:visible").count();
  await field.fill("One line of many.\n".repeat(60));
  const box = await field.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  const standing = await view();
  await field.evaluate((element) => (element.scrollTop = 0));
  await page.mouse.wheel(0, 60);
  seen.scrolled = await settled(() => field.evaluate((element) => element.scrollTop), 0);
  seen.kept = JSON.stringify(await view()) === JSON.stringify(standing);
});
