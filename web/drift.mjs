// How far the picture drifts from its beginning, as curves under the strip. No DOM.

export const CURVES = ["motion", "saturation", "jump"];
export const WIDTH = 100;
const LANE = 14; // of one curve: those of a steady video would lie upon each other
export const HEIGHT = LANE * CURVES.length;
const EDGE = 2; // above and below a curve, so that its line is not cut

/** Whether there is anything to draw. */
export function hasCurves(watch) {
  return CURVES.some((name) => (watch?.[name] ?? []).length > 1);
}

/**
 * {name: "x,y x,y ..."} in a box of WIDTH by HEIGHT, over the same time as the strip: point i stands for `frames_per_point`
 * frames and lies in their middle; the first and the last reach to the ends of theirs. One curve lies below the other, each
 * with a scale of its own, from 0 to its largest value.
 */
export function curvesOf(watch, frames) {
  const each = watch?.frames_per_point ?? 1;
  return Object.fromEntries(CURVES.map((name, lane) => [name, pointsOf(watch?.[name] ?? [], each, frames, (lane + 1) * LANE - EDGE)]));
}

function pointsOf(values, each, frames, bottom) {
  const most = Math.max(...known(values), 0);
  const point = (at, value) => {
    const x = frames > 0 ? Math.min(WIDTH, (WIDTH * at * each) / frames) : 0;
    const y = most > 0 ? bottom - (value / most) * (LANE - 2 * EDGE) : bottom;
    return `${round(x)},${round(y)}`;
  };
  const seen = values.map((value, i) => [i, value]).filter(([, value]) => Number.isFinite(value));
  if (seen.length === 0) return "";
  const [[first, left], [last, right]] = [seen[0], seen.at(-1)];
  return [point(first, left), ...seen.map(([i, value]) => point(i + 0.5, value)), point(last + 1, right)].join(" ");
}

function known(values) {
  return values.filter((value) => Number.isFinite(value));
}

function round(value) {
  return Math.round(100 * value) / 100;
}
