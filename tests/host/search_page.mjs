// Types words into the search of nodes in ComfyUI's own page and prints, for each, the names on the list.
//
//     node search_page.mjs '{"url": ..., "words": ["video", ...], "locale": "en", "shots": "folder"}'

import { rest, visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);

/** Our nodes in the order in which the page's own search finds them, without the end that its list has. */
const found = (page, word) =>
  page.evaluate((word) => {
    const stores = document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s;
    const nodes = stores.get("nodeDef").nodeSearchService.searchNode(word, []);
    return nodes.filter((node) => node.name.startsWith("Rivulet")).map((node) => node.display_name);
  }, word);

await visit({ vue: false, ...told }, async (here) => {
  const { page, seen } = here;
  await here.set("Comfy.Locale", told.locale);
  await here.open();
  await page.mouse.dblclick(500, 900);
  const field = page.getByRole("combobox");
  await field.waitFor();
  Object.assign(seen, { listed: {}, found: {} });
  for (const word of told.words) {
    await field.fill(word);
    // the list follows the field after a moment in which no key is pressed
    await rest(1);
    seen.listed[word] = await page.locator("[data-testid=result-item]").evaluateAll(
      (items) => items.map((item) => item.innerText.split("\n")[0]));
    seen.found[word] = await found(page, word);
    await here.shot(`search-${told.locale}-${word.replaceAll(" ", "-")}`);
  }
  seen.category = await page.locator("[data-testid^=category-]").evaluateAll(
    (items) => items.map((item) => item.innerText.trim()).find((name) => name.startsWith("Rivulet")));
  await here.set("Comfy.Locale", "en");
});
