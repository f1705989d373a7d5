// Advanced inputs behind a button, where the host shows them all.

/**
 * LiteGraph draws every input of a node; Nodes 2.0 folds the advanced ones itself. `inPage()` tells which of the two draws,
 * `turned()` is called when the button was pressed. What is connected stays in sight. Values are kept and sent all the same.
 */
export class Fold {
  constructor(node, say, inPage, turned) {
    Object.assign(this, { node, say, inPage, turned, open: false });
    const turn = () => this.turn();
    // of the canvas alone, and no input: nothing of it is saved or sent
    this.button = node.addWidget("button", "rivulet_fold", null, turn, { canvasOnly: true, serialize: false });
    this.button.serialize = false;
    this.update();
  }

  turn() {
    this.open = !this.open;
    this.turned();
  }

  /** Hides what is to be hidden. */
  update() {
    const { node, inPage, open, say, button } = this;
    const linked = (widget) => node.inputs?.some((each) => each.widget?.name === widget.name && each.link != null);
    for (const widget of node.widgets) {
      if (!widget.options?.advanced) continue;
      const hidden = !inPage() && !open && !linked(widget);
      if (Boolean(widget.hidden) !== hidden) widget.hidden = hidden;
    }
    button.label = say(open ? "foldClose" : "foldOpen");
  }
}
