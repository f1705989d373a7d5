// What the page decides. No DOM, no network.

import { AHEAD_SECONDS, LATE_SECONDS } from "../../web/buffer.mjs";
import { clock } from "../../web/clock.mjs";

export const JOIN_SECONDS = 20; // a stream no older than this is watched from its beginning
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
