// What a player's buffer tells: ranges are [start, end] in seconds of the stream. No DOM.

export const AHEAD_SECONDS = 20; // pulled before it is played
export const BEHIND_SECONDS = 60; // kept after it was played, so that the browser's memory stays bounded
export const LATE_SECONDS = 12; // behind an endless stream: then the viewer jumps to its newest key frame
const EDGE_SECONDS = 0.15; // a player stops a little before the end of what it has

/** Where the playhead must go to stand inside what is buffered, or null. */
export function placeAt(at, ranges) {
  const later = ranges.find(([start]) => start > at);
  const plays = ranges.some(([start, end]) => at >= start && at <= (later ? end - EDGE_SECONDS : end));
  return later && !plays ? later[0] : null;
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
