// Keeps the state of a node's stream: from events, and from questions in between, because events can stay away. No DOM.

import { answerOf } from "./link.mjs";
import {
  asksForList, hasEnded, isGone, isHere, knownPrompts, lacksPrompts, merged, othersStream, ownStream, pollRest,
} from "./session.mjs";

const AWAIT_SECONDS = 120; // how long a stream that was just queued is looked for in haste
const SKEW_SECONDS = 2; // by which two clocks must differ before it counts: the server tells whole seconds

const now = () => performance.now() / 1000;

/** `view` is {client(), place(), seen(), busySeconds}; `changed(before)` is called with the state that was known before. */
export class Feed {
  state = null;
  offered = null; // another client's stream
  lost = 0; // questions in a row without an answer
  told = 0; // when the state came, by the server's clock
  skew = 0; // seconds that the server's clock is ahead of this one
  due = 0;
  awaited = 0;
  asking = false;
  leaving = new AbortController();

  constructor(transport, view, changed) {
    Object.assign(this, { transport, view, changed });
  }

  /** Seconds since 1970 by the server's clock. */
  get serverNow() {
    return Date.now() / 1000 + this.skew;
  }

  /** Whether the server must be taken for gone. */
  get gone() {
    return isGone(this.lost);
  }

  /** Whether nothing is being made here, so that a take that was cut off matters. */
  get idle() {
    return !this.state || this.state.phase === "failed";
  }

  /** Takes an event of the server. */
  hear(message) {
    if (message.session === this.state?.session || isHere(message, this.view.place())) this.take(message);
  }

  /** Asks at once, and in haste until another stream begins where one is `awaited`. */
  refresh(awaited = false) {
    this.due = 0;
    if (awaited) this.awaited = now() + AWAIT_SECONDS;
  }

  /** Asks where it is time to; resolves to whether the list of streams came. */
  async tick() {
    if (this.asking || now() < this.due) return false;
    this.asking = true;
    try {
      return await this.ask();
    } finally {
      this.asking = false;
    }
  }

  async ask() {
    const [{ transport, view }, { signal }] = [this, this.leaving];
    const list = asksForList(this.state);
    const one = () => `/rivulet/stream/${encodeURIComponent(this.state.session)}?prompts=${knownPrompts(this.state)}`;
    const path = list ? `/rivulet/streams?client=${encodeURIComponent(view.client())}` : one();
    const { status, headers, body } = await answerOf(() => transport.get(path, { signal }), "json", null);
    if (signal.aborted) return false;
    const answered = status === 200;
    const found = answered && (list ? ownStream(view.place(), body) : body);
    if (answered && list) this.offered = othersStream(view.place(), body);
    this.lost = answered || status === 404 ? 0 : this.lost + 1;
    this.due = now() + pollRest(this.state, view.seen(), this.lost, { busy: view.busySeconds, awaited: now() < this.awaited });
    this.setClock(headers);
    if (found) this.take(found);
    if (status === 404 && !list) this.forget();
    return answered && list;
  }

  setClock(headers) {
    const skew = (Date.parse(headers.get("Date")) - Date.now()) / 1000;
    this.skew = Math.abs(skew) > SKEW_SECONDS ? skew : 0;
  }

  take(message) {
    const before = this.state;
    this.state = merged(before, message);
    if (this.state === before) return;
    this.told = this.serverNow;
    if (this.state.session !== before?.session) this.awaited = 0;
    if (lacksPrompts(this.state)) this.due = 0;
    this.changed(before);
  }

  /** The server was started anew: what is left of the stream lies in its folder. */
  forget() {
    const before = this.state;
    if (hasEnded(before)) return;
    const rest = { sentence: "", take: "", prompts_told: before.prompt_count }; // nobody can tell more
    this.state = { ...before, ...rest, phase: "failed", forgotten: true };
    this.due = 0;
    this.changed(before);
  }

  close() {
    this.leaving.abort();
  }
}
