// Tells of the end of a stream, or of a fault, to whoever looks elsewhere: a notification, or the page's title.

import { hasEnded } from "./session.mjs";

const KEPT = "rivulet.bell";
const FLASH_MILLISECONDS = 1000;

/**
 * What there is to tell after a state: "ended", "failed", "warning" or "". `before` is the state that was known, of the
 * same stream; a stream that was found ended is no news, nor is one whose take goes on.
 */
export function newsOf(before, after) {
  if (!before || before.session !== after.session || hasEnded(before)) return "";
  if (hasEnded(after)) return after.goes_on ? "" : after.phase;
  const warning = after.watch?.warning ?? "";
  return warning && warning !== (before.watch?.warning ?? "") ? "warning" : "";
}

/** A bell that is on or off for every page of this browser. `page` is the window, for tests another one. */
export class Bell {
  constructor(page = globalThis) {
    this.page = page;
    this.flashing = null;
  }

  get on() {
    try {
      return this.page.localStorage.getItem(KEPT) === "on";
    } catch {
      return this.here === true; // a page may be forbidden to remember
    }
  }

  /** Whether notifications are shown; where not, the page's title flashes. */
  get allowed() {
    return this.page.Notification?.permission === "granted";
  }

  /** Turns it; asks for permission the first time, which only a click may do. */
  async turn() {
    const on = !this.on;
    this.here = on;
    try {
      this.page.localStorage.setItem(KEPT, on ? "on" : "off");
    } catch {
      // it is on for this page alone
    }
    if (!on) this.hush();
    if (on && this.page.Notification?.permission === "default") await this.page.Notification.requestPermission();
  }

  /** Tells, where it is on. */
  ring(title, body) {
    if (!this.on) return;
    if (!this.notify(title, body)) this.flash(title);
  }

  notify(title, body) {
    if (!this.allowed) return false;
    try {
      const shown = new this.page.Notification(title, { body, tag: `${KEPT} ${body}` });
      shown.onclick = () => {
        this.page.focus();
        shown.close();
      };
      return true;
    } catch {
      return false; // some phones have the permission and not the constructor
    }
  }

  /** Alternates the title until somebody looks. */
  flash(title) {
    const { document } = this.page;
    if (document.hasFocus()) return;
    this.hush();
    this.was = document.title;
    const turn = () => {
      document.title = document.title === this.was ? `\u25cf ${title}` : this.was;
    };
    turn();
    this.flashing = this.page.setInterval(turn, FLASH_MILLISECONDS);
    this.page.addEventListener("focus", () => this.hush(), { once: true });
  }

  hush() {
    if (this.flashing === null) return;
    this.page.clearInterval(this.flashing);
    this.flashing = null;
    this.page.document.title = this.was;
  }
}
