// Messages to a running stream, each followed from sending to what became of it. No DOM, no network.

import { hasEnded } from "./session.mjs";

export const MODES = ["recache", "smooth", "blend", "shot", "cut"]; // in the order they are offered in
export const ENDING = ["stop", "redo", "yield"]; // what a stream ends by
const RESEND_SECONDS = [1, 2, 4, 8];
const REMEMBERED = 20;

/** An empty book of one widget's messages; `viewer` must be new for every widget. */
export function newBook(viewer) {
  return { viewer, number: 0, wishes: [] };
}

/** Eight letters that no other widget has. Works in pages without a secure context. */
export function newViewer() {
  return Array.from(crypto.getRandomValues(new Uint8Array(4)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Letters of a text as the server counts them: one outside the first plane, as an emoji, is one. */
export const lettersOf = (text) => [...text].length;

/** Why a prompt cannot be sent, as the name of a sentence, or an empty string. */
export function promptProblem(text, state) {
  if (text.trim() === "") return "promptEmpty";
  return lettersOf(text) > state.longest_prompt ? "promptLong" : "";
}

/** The modes that this run can do, its usual one first, then best first. */
export function modesOf(state) {
  const others = MODES.filter((mode) => state.modes.includes(mode) && mode !== state.switch);
  return state.modes.includes(state.switch) ? [state.switch, ...others] : others;
}

/** The book with one more wish: {do}, for a prompt with {prompt, mode}, for a redo with {frame, prompt, mode, seed}. */
export function wished(book, wish, now) {
  const message = { viewer: book.viewer, number: book.number + 1, ...wish };
  const entry = { message, standing: "sending", sentence: "", tries: 0, due: now };
  return { ...book, number: message.number, wishes: [...book.wishes, entry].slice(-REMEMBERED) };
}

/** The message to send now, or null. One at a time: the server must see them in order. */
export function toSend(book, now) {
  const first = book.wishes.find((each) => each.standing === "sending");
  return first && now >= first.due ? first.message : null;
}

/** The book after the answer to a message: {status, error}; status 0: none came, so it is sent again. */
export function answered(book, number, answer, now) {
  return changed(book, number, (entry) => {
    if (entry.standing !== "sending") return entry;
    if (answer.status === 202) return { ...entry, standing: "waiting" };
    if (answer.status >= 400 && answer.status < 500) return { ...entry, standing: "refused", sentence: answer.error };
    const rest = RESEND_SECONDS[entry.tries];
    if (rest === undefined) return { ...entry, standing: "lost" };
    return { ...entry, tries: entry.tries + 1, due: now + rest };
  });
}

/** The book after a state: what it acknowledges is settled, what a stream left undone at its end is lost. */
export function settled(book, state) {
  const own = state.acknowledged.filter((each) => each.viewer === book.viewer);
  const wishes = book.wishes.map((entry) => {
    if (!isOpen(entry)) return entry;
    const told = own.find((each) => each.number === entry.message.number);
    if (told) return { ...entry, standing: told.outcome, sentence: told.sentence, frame: told.first_frame };
    if (!hasEnded(state)) return entry;
    return { ...entry, standing: ENDING.includes(entry.message.do) ? "done" : "ended" };
  });
  return { ...book, wishes };
}

/** Whether a wish of this kind is on its way, so that its button shows it. */
export function isUnderWay(book, kind) {
  return book.wishes.some((each) => each.message.do === kind && isOpen(each));
}

/** The newest message of a kind that was not refused, or null. */
export function newestTaken(book, kind) {
  const last = book.wishes.findLast((each) => each.message.do === kind);
  return last && !["refused", "lost", "replaced"].includes(last.standing) ? last.message : null;
}

/** The newest prompt of this widget and what became of it, or null. */
export function newestPrompt(book) {
  return book.wishes.findLast((each) => each.message.do === "prompt") ?? null;
}

/** The newest wish that is no prompt and did not succeed, or null; a later one of its kind hides it. */
export function newestFailure(book) {
  const last = book.wishes.findLast((each) => each.message.do !== "prompt");
  return last && (last.standing === "refused" || last.standing === "lost") ? last : null;
}

/** Prompts of other viewers, or of this page before it was loaded again, that wait for the next block. */
export function othersPending(book, state) {
  return state.pending.filter((each) => each.do === "prompt" && each.viewer !== book.viewer);
}

function isOpen(entry) {
  return entry.standing === "sending" || entry.standing === "waiting";
}

function changed(book, number, change) {
  return { ...book, wishes: book.wishes.map((each) => (each.message.number === number ? change(each) : each)) };
}
