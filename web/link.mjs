// Requests about one stream that can be broken off, and waiting that can be broken off with them.

/** Why a way of showing the stream does not work here: "blocked", "media" or "silent". */
export class Trouble extends Error {
  constructor(kind, why) {
    super(`${kind}: ${why}`);
    this.kind = kind;
  }
}

/** The routes of one stream. `transport` is {get(path, {signal}), post(path, json), url(path)}. */
export class Link {
  constructor(transport, session) {
    this.transport = transport;
    this.path = `/rivulet/stream/${encodeURIComponent(session)}`;
    this.leaving = new AbortController();
  }

  get signal() {
    return this.leaving.signal;
  }

  url(rest) {
    return this.transport.url(this.path + rest);
  }

  /** Returns {status, headers, body}; status 0 where none came. `read` names how the body is taken. */
  async get(rest, read = "arrayBuffer") {
    return answerOf(() => this.transport.get(this.path + rest, { signal: this.signal }), read, this.signal);
  }

  /** Returns {status, body}; status 0 where no answer came. */
  async post(rest, json) {
    return answerOf(() => this.transport.post(this.path + rest, json), "json", this.signal);
  }

  /** Resolves later; rejects when the link is closed. */
  sleep(milliseconds) {
    return new Promise((done, fail) => {
      if (this.signal.aborted) return fail(this.signal.reason);
      const timer = setTimeout(() => {
        this.signal.removeEventListener("abort", leave);
        done();
      }, milliseconds);
      const leave = () => {
        clearTimeout(timer);
        fail(this.signal.reason);
      };
      this.signal.addEventListener("abort", leave, { once: true });
    });
  }

  close() {
    this.leaving.abort();
  }
}

/**
 * Where the finished video of a stream is: the host's own address, which a new start of the server leaves as it is, or
 * the stream's. A file that was written anew is another one to the browser.
 */
export function fileUrl(link, { view, session }) {
  if (!view) return link.url("/video");
  return link.transport.url(`/view?${new URLSearchParams({ ...view, take: session })}`);
}

/** The transport of a page that came from the stream's own server. */
export const ownServer = {
  get: (path, options) => fetch(path, options),
  post: (path, json) => fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(json),
  }),
  url: (path) => path,
};

/** An answer that needs no try around it: {status, headers, body}. */
export async function answerOf(ask, read, signal) {
  try {
    const response = await ask();
    const wanted = response.status === 200 ? read : response.status === 204 ? null : "json";
    const body = wanted ? await response[wanted]().catch((why) => (wanted === read ? Promise.reject(why) : {})) : null;
    return { status: response.status, headers: response.headers, body };
  } catch (why) {
    if (signal?.aborted) throw why;
    return { status: 0, headers: new Headers(), body: null };
  }
}
