// The offer to go on with a take that was cut off.

import { answerOf } from "./link.mjs";
import { dismissing, takeToOffer } from "./takes.mjs";

const KEPT = "rivulet.dismissed";

/** `prefix()` is what the node writes its videos under; `failed()` the id of the take that an error just ended, or "". */
export class CutOff {
  constructor(transport, prefix, failed) {
    Object.assign(this, { transport, prefix, failed, take: null, due: true });
  }

  /** Looks at the next chance. */
  refresh() {
    this.due = true;
  }

  async look(signal) {
    if (!this.due) return;
    this.due = false;
    const { status, body } = await answerOf(() => this.transport.get("/rivulet/takes", { signal }), "json", null);
    if (status === 200) this.take = takeToOffer(body.takes, this.prefix(), dismissed(), this.failed());
    else if (status !== 404) this.due = true; // 404: this server has no list
  }

  dismiss() {
    try {
      localStorage.setItem(KEPT, JSON.stringify(dismissing(dismissed(), this.take)));
    } catch {
      // a page may be forbidden to remember: it is gone until the page is loaded again
    }
    this.take = null;
  }
}

function dismissed() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return Array.isArray(kept) ? kept : [];
  } catch {
    return [];
  }
}
