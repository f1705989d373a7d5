// What the widget's elements say and which of them are there, from what is known at a moment. It changes nothing else.

import { clock, clockOfTenths } from "./clock.mjs";
import { isUnderWay, modesOf } from "./controls.mjs";
import { curvesOf, hasCurves } from "./drift.mjs";
import {
  failureWords, nextWords, noticeOf, phaseWords, promptWords, redoWords, stateLine, timesOf, timesOfSpan,
} from "./line.mjs";
import { fileUrl } from "./link.mjs";
import { shortPath, showList, showSpans } from "./player_view.mjs";
import { isGoingBack, wayBack } from "./redo.mjs";
import { hasEnded, isGivenAgain } from "./session.mjs";
import { folded } from "./takes.mjs";
import { firstSecond, frameAt, promptAt, secondsMade, spansOf } from "./timeline.mjs";
import { offerModes, put, showCurves, showLine, showLink } from "./view.mjs";

const RETRIED = ["unreachable", "fileGone"]; // what may go otherwise when it is tried again

export class Face {
  constructor(widget) {
    this.widget = widget;
  }

  show() {
    const { parts, state, feed, player, say, language, theme } = this.widget;
    parts.root.dataset.theme = theme();
    [parts.idle.hidden, parts.screen.hidden, parts.live.hidden] = [Boolean(state), !state, !state];
    parts.offer.hidden = !feed.offered || Boolean(state);
    if (feed.offered) put(parts.offered, say(hasEnded(feed.offered) ? "offeredEnded" : "offered"));
    this.showCutOff();
    const ended = !state || hasEnded(state);
    const next = ended ? nextWords(this.widget.next(state?.prompt_id), say) : "";
    put(parts.idle, next ? say("idleNext", { next }) : say("idle"));
    if (!state) return;
    parts.root.dataset.phase = next ? "next" : state.phase;
    put(parts.phase, next || phaseWords(state, say));
    const times = timesOf(state, feed.serverNow, feed.told, language, say);
    showLine(parts.line, stateLine(state, ended ? null : player.buffered, say, times));
    this.showPlace(secondsMade(state));
    this.showDrift();
    this.showTrouble();
    this.showControls(ended);
    this.showWaysOn(ended);
    this.showForm(ended);
  }

  showCutOff() {
    const { parts, say, feed, cutOff, queue, problem } = this.widget;
    const { take } = cutOff;
    parts.cutOff.hidden = !take || !queue || !feed.idle;
    parts.idle.hidden ||= !parts.cutOff.hidden;
    if (parts.cutOff.hidden) return;
    const words = say("cutOff", { name: folded(take.name).file, time: clock(take.seconds) });
    put(parts.cutOffWords, words);
    parts.cutOffWords.title = take.name;
    put(parts.cutOffTold, problem);
    put(parts.goOn, say(parts.goOn.disabled ? "goingOn" : "goOn"));
  }

  showPlace(made) {
    const { parts, state, player, say, playback } = this.widget;
    const { bar, hold, time } = parts;
    const at = Math.min(player.seconds, made);
    Object.assign(bar, { min: player.finished ? 0 : firstSecond(state), max: made });
    bar.value = at;
    for (const each of ["bar", "newest", "again", "secondBack", "secondOn"]) parts[each].disabled = !player.seekable || made === 0;
    const words = say("positionText", { time: clock(at), made: clock(made) });
    bar.setAttribute("aria-valuetext", words);
    put(time, `${clock(at)} / ${clock(made)}`);
    const held = playback.held || player.over;
    hold.dataset.held = held;
    const does = say(player.over ? "playAgain" : held ? "playPicture" : "holdPicture");
    if (hold.title !== does) hold.ariaLabel = hold.title = does;
    parts.newest.hidden = player.finished;
    parts.loop.hidden = !player.finished;
    parts.loop.setAttribute("aria-pressed", playback.loops);
    parts.full.hidden = !playback.canFill;
    parts.full.setAttribute("aria-pressed", playback.isFull);
    this.showPrompts(at, made);
  }

  /** The prompts over the video, that of the picture below, and all of them where asked. */
  showPrompts(at, made) {
    const { parts, state, say, listed } = this.widget;
    const spans = spansOf(state);
    const words = (span, number) => say("spanText", { number, ...timesOfSpan(span), prompt: span.prompt });
    const readable = showSpans(parts.strip, spans, at, words);
    parts.all.hidden = readable && !listed;
    put(parts.all, say("allPrompts", { count: spans.length }));
    parts.all.setAttribute("aria-expanded", listed);
    parts.list.hidden = !listed;
    if (listed) showList(parts.list, spans, at, words);
    parts.strip.style.setProperty("--at", `${made ? (100 * at) / made : 0}%`);
    const shown = promptAt(at, state.prompts ?? [], state.fps);
    put(parts.caption, shown);
    if (parts.caption.title !== shown) parts.caption.title = shown;
  }

  showDrift() {
    const { parts, state } = this.widget;
    const { watch } = state;
    parts.drift.hidden = !hasCurves(watch);
    if (!parts.drift.hidden && parts.drift.open) showCurves(parts.curves, curvesOf(watch, state.frames));
    put(parts.warning, watch?.warning ?? "");
  }

  showTrouble() {
    const { parts, state, player, say, feed, book, backTo } = this.widget;
    const given = state.forgotten ? "unknown" : player.given;
    const failed = state.phase === "failed" ? state.sentence : "";
    put(parts.trouble, failed || (feed.gone ? say("gone") : given ? say(given) : failureWords(book, state, say)));
    parts.retry.hidden = !RETRIED.includes(given);
    const { way } = player.choice;
    const changed = !player.finished && way !== "segments";
    const shown = changed ? say(way === "file" ? "asFile" : "asPictures") : "";
    const again = isGivenAgain(state) ? say("givenAgain") : "";
    put(parts.note, [again, shown, redoWords(backTo, state, say), noticeOf(state)].filter(Boolean).join(" "));
  }

  showControls(ended) {
    const { parts, state, book, say, player, bell } = this.widget;
    const turning = isUnderWay(book, "pause") ? "pausing" : isUnderWay(book, "resume") ? "resuming" : "";
    const stopping = isUnderWay(book, "stop");
    put(parts.pause, say(turning || (state.phase === "paused" ? "resume" : "pause")));
    put(parts.stop, say(stopping ? "stopping" : "stop"));
    parts.pause.disabled = Boolean(turning) || stopping;
    parts.stop.disabled = stopping;
    parts.pause.hidden = parts.stop.hidden = parts.bell.hidden = ended;
    parts.bell.setAttribute("aria-pressed", bell.on);
    this.showFile();
  }

  /** Where the file lies, and ways to it: the host's own, which outlive the stream, where there are. */
  showFile() {
    const { parts, state, player, copied, say } = this.widget;
    const { video: there, path } = state;
    parts.save.hidden = !there;
    const href = there ? fileUrl(player.link, state) : "";
    if (there) showLink(parts.save, href, state.file);
    parts.saved.hidden = !path;
    put(parts.path, shortPath(path));
    parts.path.title = path;
    parts.open.hidden = !there;
    if (there && parts.open.getAttribute("href") !== href) parts.open.href = href;
    put(parts.copy, say(copied === "copied" ? "copied" : "copyPath"));
    put(parts.copied, copied && say(copied)); // for screen readers, too
    parts.copied.dataset.wrong = copied === "copyYourself";
  }

  /** Going back to a second, marking a moment, letting other runs in: where this run can. */
  showWaysOn(ended) {
    const { parts, state, book, say, redo, queue, here } = this.widget;
    const way = wayBack(state, queue);
    const backing = isGoingBack(book);
    put(parts.back, say(backing ? "redoing" : "redo"));
    [parts.back.hidden, parts.back.disabled] = [way === "", backing || state.frames === 0];
    parts.back.setAttribute("aria-expanded", redo.open);
    if (way === "") redo.close();
    if (redo.open) redo.show(here, clockOfTenths(frameAt(here.seconds, state) / state.fps));
    for (const [kind, going] of [["mark", "marking"], ["yield", "yielding"]]) {
      const underWay = isUnderWay(book, kind);
      put(parts[kind], say(underWay ? going : kind));
      parts[kind].disabled = underWay || isUnderWay(book, "stop");
      parts[kind].hidden = ended || !state[`can_${kind}`];
    }
  }

  showForm(ended) {
    const { parts, state, book, say, problem, redo } = this.widget;
    const modes = modesOf(state);
    const fixed = modes.length === 0;
    offerModes(parts.mode, modes, say);
    for (const each of [parts.prompt, parts.mode, parts.change]) each.disabled = fixed;
    parts.form.hidden = ended || redo.open;
    const { text, wrong } = promptWords(book, state, say);
    put(parts.told, problem || (fixed ? say("promptFixed") : text));
    parts.told.dataset.wrong = wrong || problem !== "";
    parts.prompt.setAttribute("aria-invalid", parts.told.dataset.wrong);
  }
}
