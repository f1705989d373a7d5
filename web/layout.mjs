// How large a Stream Video is, and how its picture, controls and texts share its room: the picture takes what the
// others leave, and the node is as high as they need or as the user made it.

/** Pixels of a Stream Video that is added to a graph or lies in a template: all of it is seen at 1600 by 1000. */
export const NODE_SIZE = [840, 760];

const LEAST_IDLE = 72; // pixels: before there is a picture
const NEAR = 2; // pixels: two heights that differ by less were the same before they were rounded

/** The height that a widget needs at its width: its texts and controls, and the least picture that the style sheet allows. */
export function neededHeight(root) {
  const { height, flex } = root.style;
  // for a moment as high as what is in it
  Object.assign(root.style, { height: "min-content", flex: "none" });
  const needed = root.offsetHeight;
  Object.assign(root.style, { height, flex });
  return Math.max(LEAST_IDLE, Math.ceil(needed));
}

/**
 * The heights of a node whose content needs more or less from time to time: `byHand` is the one that the user gave it, 0
 * where it is to be as high as its content.
 */
export class NodeHeight {
  constructor(byHand) {
    Object.assign(this, { byHand, last: byHand });
  }

  /** Notes the height a node has, which somebody else may have set; `least` is what its content needs. */
  note(height, least) {
    if (Math.abs(height - this.last) < NEAR) return;
    // the host makes a node higher whose content has grown
    if (height - least >= NEAR) this.byHand = height;
    else if (height < this.byHand) this.byHand = 0;
    this.last = height;
  }

  /** The height to give the node. */
  fit(least) {
    this.last = Math.max(this.byHand, least);
    return this.last;
  }
}
