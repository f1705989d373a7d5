// Bypasses and mutes nodes in ComfyUI's own page, as Ctrl+B and Ctrl+M do; prints what the page would queue.
//
//     node bypass_page.mjs '{"url": ..., "graphs": [{...}, ...], "vue": false, "shots": "folder"}'

import { visit } from "./visit.mjs";

const told = JSON.parse(process.argv[2]);
const MODES = { bypassed: 4, muted: 2 };

await visit(told, async (here) => {
  here.seen.queued = [];
  for (const graph of told.graphs) {
    await here.load(graph, "none");
    here.seen.queued.push(await here.page.evaluate(async (modes) => {
      const { app } = await import("/scripts/app.js");
      const bare = async () => {
        const { output } = await app.graphToPrompt();
        return Object.fromEntries(Object.entries(output).map(([id, node]) => [id, { ...node, _meta: undefined }]));
      };
      const found = { whole: await bare() };
      for (const node of app.graph.nodes) {
        found[node.id] = {};
        for (const [name, mode] of Object.entries(modes)) {
          node.mode = mode;
          found[node.id][name] = await bare();
        }
        node.mode = 0;
      }
      return found;
    }, MODES));
  }
});
