// How large the node is, and how its picture, controls and texts share the room. No DOM but what is given.

/** Pixels of a Stream Video that is added to a graph or lies in a template: all of it can be seen at 1600 by 1000. */
export const NODE_SIZE = [760, 640];
