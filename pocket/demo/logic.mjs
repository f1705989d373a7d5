// What the page decides. No DOM, no network.

export const AHEAD_SECONDS = 20; // pulled before it is played
export const BEHIND_SECONDS = 60; // kept after it was played, so that the browser's memory stays bounded
export const JOIN_SECONDS = 20; // a stream no older than this is watched from its beginning
export const LATE_SECONDS = 12; // behind an endless stream: then the viewer jumps to its newest key frame
export const LONGEST_PROMPT = 500; // letters

/** The fragment a viewer who comes now starts with: the first while it is near, else the newest key frame. */
export function joinAt(live, fps) {
  const young = live.oldest === 0 && live.fragments <= JOIN_SECONDS * fps;
  return young ? 0 : (live.keyframe ?? live.oldest);
}

/**
 * What the player does next. `view` is {part, next, ahead, at}: the part and the fragment it wants, seconds buffered
 * ahead of the playhead, and the playhead in seconds of the stream.
 */
export function nextPull(view, status) {
  if (hasEnded(status)) return { do: "finish" };
  const live = status.live;
  if (!live) return { do: "wait" };
  if (view.part === null) return { do: "join", part: live.part, from: joinAt(live, status.fps) };
  if (view.part !== live.part) return { do: "join", part: live.part, from: 0 };
  const late = status.frames / status.fps - view.at > LATE_SECONDS;
  if (status.blocks === null && late && live.keyframe > view.next) {
    return { do: "join", part: live.part, from: live.keyframe };
  }
  if (view.next < live.oldest) return { do: "join", part: live.part, from: joinAt(live, status.fps) };
  if (view.ahead > AHEAD_SECONDS) return { do: "wait" };
  return { do: "pull", part: live.part, from: view.next };
}

/** Whether nothing more will be made. */
export function hasEnded(status) {
  return status.phase === "ended" || status.phase === "failed";
}

/** Where the playhead must go to stand inside what is buffered, or null. Ranges are [start, end] in seconds. */
export function placeAt(at, ranges) {
  if (ranges.length === 0 || ranges.some(([start, end]) => at >= start && at <= end)) return null;
  const later = ranges.find(([start]) => start > at);
  return later ? later[0] : null;
}

/** Seconds that can be played from here without a gap. */
export function aheadOf(at, ranges) {
  const inside = ranges.find(([start, end]) => at >= start && at <= end);
  return inside ? inside[1] - at : 0;
}

/** What may be thrown away of the buffer, as [start, end], or null. */
export function oldPart(at, ranges) {
  if (ranges.length === 0) return null;
  const end = at - BEHIND_SECONDS;
  // not for every second: removing takes the buffer away from appending for a while
  return end - ranges[0][0] > BEHIND_SECONDS / 4 ? [ranges[0][0], end] : null;
}

/** The frame to show after `shown` when pictures are pulled one by one, or null if none is there yet. */
export function nextFrame(shown, status) {
  const newest = status.frames - 1;
  if (newest < 0 || shown >= newest) return null;
  const late = newest - shown > LATE_SECONDS * status.fps;
  return shown < 0 || late ? Math.max(0, newest - Math.round(status.fps)) : shown + 1;
}

/** 75.24 -> "1:15". */
export function clock(seconds) {
  const whole = Math.floor(Math.max(0, seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** The numbers under the picture, as [name, value] pairs. */
export function figures(status) {
  const blocks = status.blocks === null ? `${status.block}` : `${status.block} of ${status.blocks}`;
  const speed = status.made_per_second;
  return [
    ["Block", blocks],
    ["Made", clock(status.frames / status.fps)],
    ["Frames/s made", status.frames ? speed.toFixed(1) : "–"],
    ["Of play speed", status.frames ? `${(speed / status.fps).toFixed(1)}×` : "–"],
  ];
}

/** What is going on, in a word or two. */
export function phaseWords(status) {
  if (status.phase === "running" && status.frames === 0) return "Making the first block";
  return { running: "Live", paused: "Paused", ended: "Finished", failed: "Stopped" }[status.phase] ?? status.phase;
}

/** Why a prompt cannot be sent, or an empty string. */
export function promptProblem(text) {
  if (text.trim() === "") return "Type what the video is to show.";
  if (text.length > LONGEST_PROMPT) return `That is ${text.length} letters; at most ${LONGEST_PROMPT} are read.`;
  return "";
}

/** What became of the prompt with this number. */
export function acknowledgement(number, status) {
  const applied = status.applied.find((each) => each.number === number);
  if (applied) return `Shown from block ${applied.block} (${clock(applied.first_frame / status.fps)}) on.`;
  if (status.pending?.number === number) {
    return hasEnded(status) ? "The stream ended before this prompt." : "Waits for the next block.";
  }
  return status.applied.some((each) => each.number > number) || status.pending?.number > number
    ? "A later prompt took its place."
    : "";
}

/** The prompt that is seen at this second of the video. */
export function promptAt(seconds, status) {
  const begun = status.applied.filter((each) => each.first_frame / status.fps <= seconds + 1e-6);
  return (begun.at(-1) ?? status.applied[0])?.prompt ?? "";
}
