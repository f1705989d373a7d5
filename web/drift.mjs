// How far the picture drifts from its beginning, as curves under the strip. No DOM.

export const CURVES = ["motion", "saturation", "jump"];
export const WIDTH = 100;
export const HEIGHT = 24;
const EDGE = 1.5; // above and below, so that a line is not cut

/** Whether there is anything to draw. */
export function hasCurves(watch) {
  return CURVES.some((name) => (watch?.[name] ?? []).length > 1);
}

/**
 * {name: "x,y x,y ..."} in a box of WIDTH by HEIGHT, over the same time as the strip: point i stands for `frames_per_point`
 * frames. Each curve has a scale of its own, from 0 to its largest value.
 */
export function curvesOf(watch, frames) {
  return Object.fromEntries(CURVES.map((name) => [name, pointsOf(watch?.[name] ?? [], watch?.frames_per_point ?? 1, frames)]));
}

function pointsOf(values, each, frames) {
  const most = Math.max(...known(values), 0);
  const point = (value, i) => {
    const x = frames > 0 ? Math.min(WIDTH, (WIDTH * (i + 0.5) * each) / frames) : 0;
    const y = most > 0 ? HEIGHT - EDGE - (value / most) * (HEIGHT - 2 * EDGE) : HEIGHT - EDGE;
    return `${round(x)},${round(y)}`;
  };
  return values.map((value, i) => (Number.isFinite(value) ? point(value, i) : "")).filter(Boolean).join(" ");
}

function known(values) {
  return values.filter((value) => Number.isFinite(value));
}

function round(value) {
  return Math.round(100 * value) / 100;
}
