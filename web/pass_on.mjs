// What is done over a widget and meant for the canvas below it: zooming by the wheel and moving by the middle button.

const MIDDLE = 1; // of `button`
const MIDDLE_HELD = 4; // of `buttons`

/** Whether something under the pointer can be scrolled that way, inside `element`; a field only while it has the keyboard. */
function scrolls(event, element) {
  for (let at = event.target; at && at !== element; at = at.parentElement) {
    const room = at.scrollHeight - at.clientHeight;
    if (room < 1 || !/auto|scroll/.test(getComputedStyle(at).overflowY)) continue;
    if (at.tagName === "TEXTAREA" && at !== document.activeElement) continue;
    return true;
  }
  return false;
}

/** Passes on the wheel and the middle button over an element to the canvas of `app`, until the signal. */
export function passOn(element, app, signal) {
  const pass = (event) => {
    event.preventDefault();
    event.stopPropagation();
    app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event));
  };
  const on = (name, wanted) => {
    element.addEventListener(name, (event) => wanted(event) && pass(event), { signal, capture: true, passive: false });
  };
  // with Ctrl held the wheel always zooms
  on("wheel", (event) => event.ctrlKey || event.metaKey || !scrolls(event, element));
  // so Nodes 2.0 is told that these scroll while they have the keyboard
  for (const each of element.querySelectorAll("textarea, .list")) each.dataset.captureWheel = "true";
  on("pointerdown", (event) => event.button === MIDDLE);
  on("pointermove", (event) => (event.buttons & MIDDLE_HELD) !== 0);
  on("pointerup", (event) => event.button === MIDDLE);
}
