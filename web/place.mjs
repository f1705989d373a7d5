// Where a node of ComfyUI's page is, in the words of its server.

const UNNAMED = "00000000-0000-0000-0000-000000000000"; // id of a graph that came without one

/**
 * {node, path, workflow}: its own id, the way to it through subgraphs ("12:7"), and the id of its workflow or "". `outer` is
 * the subgraph's node in which it is looked at, where it is not looked at itself: then there is one way alone.
 */
export function placeOf(node, outer = node) {
  const root = outer.graph?.rootGraph;
  const way = (root && pathIn(root, outer)) || String(outer.id);
  if (outer === node) return { node: node.id, path: way, workflow: named(root) };
  const path = `${way}:${pathIn(outer.subgraph, node)}`;
  return { node: path, path, workflow: named(root) };
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
