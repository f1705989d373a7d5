// The browser's own media objects, with promises around their events.

const OPEN_MILLISECONDS = 3000; // a blocked MediaSource stays silent instead of failing

/** Resolves on the first event of that name; rejects on `error` or when it takes too long. */
export async function once(target, name, milliseconds = 30_000) {
  const listening = new AbortController();
  try {
    await new Promise((done, fail) => {
      const { signal } = listening;
      target.addEventListener(name, done, { signal });
      target.addEventListener("error", () => fail(new Error(`${name} failed`)), { signal });
      const timer = setTimeout(() => fail(new Error(`no ${name}`)), milliseconds);
      signal.addEventListener("abort", () => clearTimeout(timer));
    });
  } finally {
    listening.abort();
  }
}

/** Whether fragments of this codec can be joined here. */
export function canJoin(codec) {
  return "MediaSource" in globalThis && MediaSource.isTypeSupported(kindOf(codec));
}

/** Returns the buffer that `video` plays from; rejects where Media Source is blocked. */
export async function openBuffer(video, codec) {
  const source = new MediaSource();
  const url = URL.createObjectURL(source);
  video.src = url;
  try {
    await once(source, "sourceopen", OPEN_MILLISECONDS);
  } finally {
    URL.revokeObjectURL(url);
  }
  return source.addSourceBuffer(kindOf(codec));
}

/** The picture that a video shows, as an address of its own; "" where it shows none. */
export function stillOf(video) {
  if (!video.videoWidth || video.hidden) return "";
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.toDataURL("image/jpeg");
}

/** What is buffered, as [start, end] in seconds. */
export function rangesOf(buffered) {
  return Array.from(buffered, (_, i) => [buffered.start(i), buffered.end(i)]);
}

/** Appends a segment. */
export async function feed(buffer, data) {
  const fed = once(buffer, "updateend");
  buffer.appendBuffer(data);
  await fed;
}

/** Throws a range of the buffer away. */
export async function remove(buffer, [start, end]) {
  const removed = once(buffer, "updateend");
  buffer.remove(start, end);
  await removed;
}

function kindOf(codec) {
  return `video/mp4; codecs="${codec}"`;
}
