// Runs the nodes that report something in ComfyUI's own page; prints what was seen of their panels.
//
//     node report_page.mjs '{"url": ..., "graph": {...}, "refused": {...}, "wrong": {...}, "vue": false, "shots": "folder"}'

import { rest, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);
const { graph, refused } = told;
const COLUMNS = { RivuletPlan: [0, 0], RivuletLoadModel: [0, 700], RivuletDoctor: [700, 0], RivuletCalibrate: [700, 700] };

/** Where the nodes with a panel lie and what their panels say: {type: {text, hint, size, inside, wide, wrong}}. */
function look(page) {
  return page.evaluate(async () => {
    const { app } = await import("/scripts/app.js");
    const { scale, offset } = app.canvas.ds;
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const found = {};
    for (const node of app.graph.nodes) {
      const widget = node.widgets?.find((each) => each.name === "report");
      const panel = widget?.element.querySelector(".report");
      if (!panel) continue;
      const box = panel.getBoundingClientRect();
      const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
      const right = drawn?.right ?? canvas.left + (node.pos[0] + node.size[0] + offset[0]) * scale;
      const bottom = drawn?.bottom ?? canvas.top + (node.pos[1] + node.size[1] + offset[1]) * scale;
      found[node.type] = {
        text: panel.querySelector(".lines").innerText,
        hint: panel.querySelector(".hint").innerText,
        wrong: panel.classList.contains("wrong"),
        width: box.width / scale,
        // pixels of the node that stay empty under the panel; where nodes are elements of the page other things follow
        below: ((drawn ? widget.element.getBoundingClientRect().bottom : bottom) - box.bottom) / scale,
        inside: box.right <= right + 1 && box.bottom <= bottom + 1,
        cut: panel.scrollWidth > panel.clientWidth + 1,
      };
    }
    return found;
  });
}

/** What is seen once nothing moves any more. */
async function settled(page) {
  for (let last = "", same = 0; ; ) {
    const seen = await look(page);
    same = JSON.stringify(seen) === last ? same + 1 : 0;
    if (same === 3) return seen;
    last = JSON.stringify(seen);
    await rest(0.5);
  }
}

/** Places the nodes and shows them all. */
function spread(page) {
  return page.evaluate(async (columns) => {
    const { app } = await import("/scripts/app.js");
    // some front ends give no id to a graph that came without one, and another one when the page is loaded anew
    if (app.graph.id.startsWith("00000000")) app.graph.id = crypto.randomUUID();
    for (const node of app.graph.nodes) node.pos = columns[node.type] ?? [-700, 300 * Number(node.id)];
    Object.assign(app.canvas.ds, { scale: 0.7, offset: [90, 110] });
    app.canvas.setDirty(true, true);
  }, COLUMNS);
}

const filled = (page, count) => page.waitForFunction(
  (count) => [...document.querySelectorAll(".report .lines")].filter((each) => each.innerText.trim()).length >= count, count,
);

await visit(told, async (here) => {
  const { page, seen } = here;
  page.setDefaultTimeout(120_000);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.setViewportSize({ width: 1100, height: 1300 });
  await here.load(graph, "none");
  await spread(page);
  seen.widgets = await page.evaluate(async () => {
    const { app } = await import("/scripts/app.js");
    const own = (node) => (node.widgets ?? []).map((each) => each.type).filter((type) => type.startsWith("rivulet_"));
    return Object.fromEntries(app.graph.nodes.map((node) => [node.type, own(node)]));
  });
  seen.before = await settled(page);
  await here.shot("reports-empty");
  await here.queue();
  await filled(page, Object.keys(seen.before).length);
  seen.after = await settled(page);
  await here.shot("reports");

  const doctor = page.locator(".report", { hasText: "Rivulet" }).first();
  await doctor.locator(".copy").click();
  seen.said = await doctor.locator(".copy").innerText();
  seen.copied = await page.evaluate(() => navigator.clipboard.readText());
  await doctor.locator(".lines p").nth(1).dblclick({ position: { x: 20, y: 8 } });
  await page.keyboard.press("Control+c");
  seen.selected = await page.evaluate(() => String(getSelection()).trim());
  seen.selectedCopied = (await page.evaluate(() => navigator.clipboard.readText())).trim();

  await page.reload();
  await here.open();
  await filled(page, Object.keys(seen.before).length);
  seen.reloaded = await settled(page);
  await here.shot("reports-reloaded");

  // a graph that is refused while it runs says so in the node, too
  await here.load(refused, "none");
  await spread(page);
  await here.queue();
  await page.waitForFunction(() => document.querySelector(".report.wrong"));
  seen.refused = await settled(page);

  // prompts that cannot be read: one error, in which each wrong line has its reason
  await here.load(told.wrong, "none");
  const post = (response) => response.url().endsWith("/prompt") && response.request().method() === "POST";
  const answer = page.waitForResponse(post);
  await here.queue().catch(() => {});
  seen.wrong = (await (await answer).json()).node_errors;
  await rest(1);
  await here.shot("prompts-wrong");
});
