// Prompts as spans over everything that was made. No DOM.

/** Spans {prompt, mode, from, to, left, width}: seconds of the stream, and percent of the strip. */
export function spansOf(state) {
  const prompts = state.prompts ?? [];
  const made = secondsMade(state);
  const spans = prompts.map(({ prompt, mode, first_frame: frame }, i) => {
    const from = Math.min(frame / state.fps, made);
    const to = i + 1 < prompts.length ? Math.min(prompts[i + 1].first_frame / state.fps, made) : made;
    return { prompt, mode, from, to, left: percent(from, made), width: percent(to - from, made) };
  });
  // a prompt that took effect at the border has no picture yet
  return spans.filter((span) => span.to > span.from);
}

/** Seconds of video made so far. */
export function secondsMade(state) {
  return state.frames / state.fps;
}

/** The first second that can still be had. */
export function firstSecond(state) {
  return state.media ? state.media.oldest.frame / state.fps : 0;
}

/** Percent of the strip at which a second lies. */
export function percent(seconds, made) {
  return made > 0 ? Math.min(100, Math.max(0, (100 * seconds) / made)) : 0;
}

/** The second under a point `x` pixels into a strip `width` pixels wide, within what can still be had. */
export function secondAt(x, width, state) {
  const made = secondsMade(state);
  const second = width > 0 ? (made * x) / width : 0;
  return Math.min(made, Math.max(firstSecond(state), second));
}

/** The frame that is shown at a second. Players round theirs to microseconds, far less than a thousandth of a frame's. */
export function frameAt(seconds, state) {
  return Math.max(0, Math.min(state.frames - 1, Math.floor(seconds * state.fps + 1e-3)));
}

/** The prompt that is seen at this second, or an empty text. */
export function promptAt(seconds, prompts, fps) {
  const begun = prompts.filter((each) => each.first_frame / fps <= seconds + 1e-6);
  return (begun.at(-1) ?? prompts[0])?.prompt ?? "";
}
