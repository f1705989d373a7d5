// Times as people read them. No DOM.

/** 75.24 -> "1:15.2". */
export function clockOfTenths(seconds) {
  const tenths = Math.floor(10 * Math.max(0, seconds) + 1e-6);
  return `${clock(tenths / 10)}.${tenths % 10}`;
}

/** 75.24 -> "1:15". */
export function clock(seconds) {
  const whole = Math.floor(Math.max(0, seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}
