// Where a node of ComfyUI's page is, in the words of its server.

const UNNAMED = "00000000-0000-0000-0000-000000000000"; // id of a graph that came without one

/** {node, path, workflow}: its own id, the way to it through subgraphs ("12:7"), and the id of its workflow or "". */
export function placeOf(node) {
  const root = node.graph?.rootGraph;
  return { node: node.id, path: (root && pathIn(root, node)) || String(node.id), workflow: named(root) };
}

/** The id of a workflow, "" where it has none. */
export function named(workflow) {
  const id = workflow?.id ?? "";
  return id === UNNAMED ? "" : id;
}

/** "12:7" for node 7 in the subgraph that node 12 stands for; the first way where there are more. */
function pathIn(graph, node) {
  for (const each of graph.nodes ?? []) {
    if (each === node) return String(node.id);
    const inside = each.subgraph && pathIn(each.subgraph, node);
    if (inside) return `${each.id}:${inside}`;
  }
  return "";
}
