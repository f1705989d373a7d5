// How the stream is shown here: segments through Media Source, one endless file, or single pictures. No DOM.

export const WAYS = ["segments", "file", "pictures"];
export const PICTURE_MILLISECONDS = 8000; // until an endless file must have shown something
const MEDIA_ERRORS = 2; // that segments may have before another way is taken

/** The way to begin with; `able` is {segments, file}: what the browser says of itself. */
export function firstWay(able) {
  return { way: WAYS.find((way) => able[way] ?? true), errors: 0, why: "" };
}

/**
 * What follows on trouble: "blocked" (no `sourceopen`, or the codec is refused), "media" (an error while playing or
 * appending) or "silent" (no picture in time). One media error among segments is tried again.
 */
export function afterTrouble(choice, trouble, able) {
  const errors = choice.errors + 1;
  const again = choice.way === "segments" && trouble === "media" && errors < MEDIA_ERRORS;
  if (again) return { ...choice, errors };
  const later = WAYS.slice(WAYS.indexOf(choice.way) + 1).find((way) => able[way] ?? true);
  return { way: later ?? "pictures", errors: 0, why: trouble };
}
