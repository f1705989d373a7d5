// What the host's queue holds of a page: whether a node's next stream waits or is being made ready. No DOM.

import { answerOf } from "./link.mjs";
import { named } from "./place.mjs";
import { isHere } from "./session.mjs";

export const EVENTS = [
  "status", "execution_start", "execution_cached", "executing", "execution_error", "execution_interrupted",
  "execution_success", "reconnected",
];
const LEAST_MILLISECONDS = 300; // between two questions

/**
 * `client()` names this page to the server; `transport` is {get(path)}. `hear(event, detail)` takes the host's events; no
 * question is asked without one.
 */
export class Queue {
  constructor(transport, client) {
    Object.assign(this, { transport, client, jobs: [], node: "", done: new Set(), asking: null, stale: false });
  }

  hear(event, detail) {
    if (event === "executing") {
      // some hosts say the node alone
      this.node = String(detail?.display_node ?? detail?.node ?? (typeof detail === "object" ? "" : (detail ?? "")));
      return;
    }
    if (event === "execution_start") this.node = "";
    if (event === "execution_cached") for (const node of detail?.nodes ?? []) this.done.add(`${detail.prompt_id} ${node}`);
    this.refresh();
  }

  /** Asks for the queue, once more where something was heard meanwhile. */
  refresh() {
    this.stale = true;
    this.asking ??= this.ask().finally(() => (this.asking = null));
    return this.asking;
  }

  async ask() {
    while (this.stale) {
      this.stale = false;
      const { status, body } = await answerOf(() => this.transport.get("/queue"), "json", null);
      if (status === 200) this.take(body);
      await new Promise((done) => setTimeout(done, LEAST_MILLISECONDS));
    }
  }

  take({ queue_running: running, queue_pending: waiting }) {
    this.jobs = [...running.map((each) => jobOf(each, true)), ...waiting.map((each) => jobOf(each, false))];
    const known = ([id]) => this.jobs.some((job) => job.id === id);
    this.done = new Set([...this.done].filter((each) => known(each.split(" "))));
  }

  /**
   * The next stream of the node at a place, {node, workflow}: {standing: "waiting", ahead} with the number of runs before it;
   * {standing: "running", node, here} with the id of what is executed, empty where that is not known, and whether that is the
   * node itself; null where none is on its way. `known` is the id of the run whose stream is known already.
   */
  next(place, known) {
    const mine = (job) => job.client === this.client() && job.id !== known && this.makes(job, place);
    const own = this.jobs.filter(mine).sort(inTurn)[0];
    if (!own) return null;
    const { workflow } = own;
    const here = isHere({ node: this.node, workflow }, place);
    if (own.running) return { standing: "running", node: this.node, here };
    return { standing: "waiting", ahead: this.jobs.filter((job) => inTurn(job, own) < 0).length };
  }

  makes(job, place) {
    const here = (node) => isHere({ node, workflow: job.workflow }, place) && !this.done.has(`${job.id} ${node}`);
    return job.streams.some(here);
  }
}

function jobOf([number, id, prompt, extra], running) {
  const streams = Object.keys(prompt).filter((node) => prompt[node].class_type === "RivuletStream");
  const workflow = named(extra?.extra_pnginfo?.workflow);
  return { number, id, running, streams, client: extra?.client_id, workflow };
}

function inTurn(one, other) {
  return Number(other.running) - Number(one.running) || one.number - other.number;
}
