"""Prompts as a user types them.

Three ways of writing are understood: one prompt; several, parted by lines of `---`, each shown for the same
number of seconds; and timed lines such as `[0-5s] a red circle`, `[1:30-2:00 cut] ...` or `[1:00:00] ...`. A
line that begins with `#` is a comment. Times are whole milliseconds, so that a border is found exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .timeline import DEFAULT_MODE, MODES, Prompt, Timeline, clock, quoted, why_no_text

MAX_LETTERS = 4_000_000  # of all that is typed: what a thousand of the longest live prompts directed
MAX_LINES = 15_000  # each of which takes a while; a server reads them before a run
MAX_DIGITS = 9  # of a number in a time
MAX_REFUSALS = 8  # of lines, that are told at once

_TIMED = "write for instance [5s] a red circle, [0-5s] a red circle or [1:30-2:00 cut] a red circle"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of what the user typed, for messages; `number` counts from 1."""

    number: int
    text: str

    def refusal(self, problem: str) -> ValueError:
        """The error that quotes this line, or its beginning."""
        return ValueError(f"Prompts, line {self.number}, {quoted(self.text)}: {problem}.")

    @property
    def bracket(self) -> tuple[str, str] | None:
        """(what stands in the bracket that the line begins with, what comes after it); None: it has none."""
        inside, closed, rest = self.text[1:].partition("]")
        if not self.text.startswith("[") or not closed or "[" in inside:
            return None
        return inside.strip(), rest

    @property
    def is_timed(self) -> bool:
        """Whether the line begins with a bracket that is meant as a time, right or wrong."""
        inside = self.bracket[0] if self.bracket else ""
        return inside.removeprefix("+").removeprefix("-")[:1].isdecimal() or inside.lower() in MODES

    @property
    def is_separator(self) -> bool:
        """Whether the line is three dashes or more, and nothing else."""
        return len(self.text) >= 3 and not self.text.strip("-")


def read_timeline(
    text: str, *, seconds_each: float = 5.0, length_seconds: float | None = None, mode: str = DEFAULT_MODE
) -> Timeline:
    """The timeline that was typed.

    seconds_each: how long each prompt of a `---` list is shown. length_seconds: planned length, times past it
    are refused; None: endless. mode: of every prompt whose line names none. Refuses with a ValueError that
    has a line for each wrong line, which it quotes, with what to write.
    """
    if len(text) > MAX_LETTERS:
        raise ValueError(
            f"Prompts: {len(text):,} letters are written, and at most {MAX_LETTERS:,} are read; write less, "
            f"or make the take in several goes."
        )
    typed = text.splitlines()
    if len(typed) > MAX_LINES:
        raise ValueError(
            f"Prompts: {len(typed):,} lines are written, and at most {MAX_LINES:,} are read; write less, or "
            f"make the take in several goes."
        )
    lines = [Line(number, line.strip()) for number, line in enumerate(typed, 1)]
    lines = [line for line in lines if not line.text.startswith("#")]
    timed = next((line for line in lines if line.is_timed), None)
    parted = next((line for line in lines if line.is_separator), None)
    if timed and parted:
        raise max(timed, parted, key=lambda line: line.number).refusal(
            "times in brackets and lines of --- do not go together; give every prompt a time, or none"
        )
    for name, seconds in (
        ("each prompt is shown for", seconds_each),
        ("the stream is planned for", length_seconds),
    ):
        if seconds is not None and not math.isfinite(1000 * seconds):
            raise ValueError(f"Prompts: {name} {seconds} seconds; give a number that ends.")
    length_ms = None if length_seconds is None else round(1000 * length_seconds)
    if timed:
        return Timeline(_timed_prompts(lines, length_ms, mode))
    each_ms = round(1000 * seconds_each)
    if each_ms < 1:
        raise ValueError(f"Prompts: each prompt is shown for {seconds_each} seconds; give more than 0.")
    return Timeline(_listed_prompts(lines, each_ms, length_ms, mode))


def _timed_prompts(lines: Sequence[Line], length_ms: int | None, mode: str) -> tuple[Prompt, ...]:
    """Each timed line with the lines below it that have no time."""
    heads = [index for index, line in enumerate(lines) if line.is_timed]
    stray = [line for line in lines[: heads[0]] if line.text]
    wrong = [str(line.refusal(f"stands before the first time; {_TIMED}")) for line in stray[:1]]
    made: list[Prompt] = []
    before: tuple[Line, int, int | None] | None = None
    for begin, end in pairwise([*heads, len(lines)]):
        head, words = lines[begin], lines[begin + 1 : end]
        try:
            start_ms, end_ms, prompt = _timed_prompt(head, words, mode)
            _check_order(head, start_ms, before, length_ms, end_ms, is_first=begin == heads[0])
        except ValueError as refusal:
            wrong.append(str(refusal))
            continue
        made.append(prompt)
        before = (head, start_ms, end_ms)
    _refuse(wrong)
    return tuple(made)


def _timed_prompt(head: Line, words: Sequence[Line], mode: str) -> tuple[int, int | None, Prompt]:
    """(start, end or None, in milliseconds; the prompt) of a line with a time and those below it."""
    assert head.bracket
    inside, rest = head.bracket
    start_ms, end_ms, named = _times(head, inside)
    text = " ".join([rest, *(line.text for line in words)]).strip()
    if not text:
        raise head.refusal("has no text; write after the bracket what is to be seen")
    if reason := why_no_text(text):
        raise head.refusal(reason)
    if named == "shot" and not start_ms:
        raise head.refusal("a shot keeps frames of the scene before it, and there is none; write [0s]")
    return start_ms, end_ms, Prompt(start_ms, text, named or mode)


def _refuse(wrong: Sequence[str]) -> None:
    """ValueError with all that is wrong, each in a line of its own, if anything is."""
    if len(wrong) > MAX_REFUSALS:
        wrong = [*wrong[:MAX_REFUSALS], f"{len(wrong) - MAX_REFUSALS} more lines are wrong."]
    if wrong:
        raise ValueError("\n".join(wrong))


def _times(line: Line, inside: str) -> tuple[int, int | None, str | None]:
    """(start, end or None, mode or None) of what stands in a bracket, in milliseconds."""
    parts = inside.replace("\u2013", "-").split("-")
    span, *words = "-".join(part.strip() for part in parts).split()
    if span.lower() in MODES:
        raise line.refusal(f"a switch needs a time before it; write for instance [5s {span.lower()}]")
    start, dash, end = span.partition("-")
    start_ms, end_ms = _milliseconds(line, start), _milliseconds(line, end) if dash else None
    if end_ms is not None and end_ms <= start_ms:
        raise line.refusal(f"ends at {clock(end_ms)}, which is not after its start; {_TIMED}")
    named = " ".join(words).lower() or None
    if named is not None and named not in MODES:
        raise line.refusal(
            f"there is no switch {quoted(named)}; write one of {', '.join(MODES)} after the time, or nothing"
        )
    return start_ms, end_ms, named


def _milliseconds(line: Line, time: str) -> int:
    whole, dot, fraction = time.lower().removesuffix("s").partition(".")
    numbers = whole.split(":")
    if (
        len(numbers) > 3
        or not all(_is_number(number, MAX_DIGITS) for number in numbers)
        or (dot and not _is_number(fraction, 3))
    ):
        raise line.refusal(
            f"{quoted(time)} is no time; {_TIMED}. If the bracket belongs to the prompt, put a word before it"
        )
    if any(len(number) != 2 or int(number) > 59 for number in numbers[1:]):
        raise line.refusal(
            f"{quoted(time)} is no time: minutes and seconds after a colon have two digits and go to 59; "
            f"{_TIMED}"
        )
    seconds = 0
    for number in numbers:
        seconds = 60 * seconds + int(number)
    return 1000 * seconds + int((fraction or "0").ljust(3, "0"))


def _is_number(text: str, digits: int) -> bool:
    return text.isdecimal() and len(text) <= digits


def _check_order(
    line: Line,
    start_ms: int,
    before: tuple[Line, int, int | None] | None,
    length_ms: int | None,
    end_ms: int | None,
    *,
    is_first: bool,
) -> None:
    if is_first and start_ms:
        raise line.refusal("is the first prompt and does not start at 0; write [0s] before it")
    if before is not None:
        earlier, earlier_ms, earlier_end_ms = before
        if start_ms <= earlier_ms:
            raise line.refusal(
                f"starts at {clock(start_ms)}, not after line {earlier.number} ({clock(earlier_ms)}); put "
                f"the lines in the order of their times, one prompt a time"
            )
        if earlier_end_ms is not None and start_ms < earlier_end_ms:
            raise line.refusal(
                f"starts at {clock(start_ms)} while line {earlier.number} lasts to {clock(earlier_end_ms)}; "
                f"write [{clock(earlier_ms)}-{clock(start_ms)}] there, or a later start here"
            )
    last_ms = start_ms if end_ms is None else end_ms - 1
    if length_ms is not None and last_ms >= length_ms:
        raise line.refusal(
            f"names {clock(last_ms if end_ms is None else end_ms)} and the stream is planned to end at "
            f"{clock(length_ms)}; take an earlier time or make the stream longer"
        )


def _listed_prompts(
    lines: Sequence[Line], each_ms: int, length_ms: int | None, mode: str
) -> tuple[Prompt, ...]:
    """One prompt for each part between lines of ---."""
    parts: list[list[Line]] = [[]]
    borders: list[Line] = []
    for line in lines:
        if line.is_separator:
            parts.append([])
            borders.append(line)
        elif line.text:
            parts[-1].append(line)
    if not any(parts) and not borders:
        raise ValueError("Prompts: nothing is written; write what is to be seen, such as a red circle.")
    made: list[Prompt] = []
    wrong: list[str] = []
    for index, part in enumerate(parts):
        text = " ".join(line.text for line in part)
        line, problem = (part or borders[max(0, index - 1) :])[0], why_no_text(text)
        start_ms = index * each_ms
        if not part:
            where = "after" if index else "before"
            problem = f"has no text {where} it; write a prompt there or delete the line"
        elif length_ms is not None and start_ms and start_ms >= length_ms:
            problem = (
                f"would begin at {clock(start_ms)} and the stream is planned to end at {clock(length_ms)}; "
                f"give each prompt less time or make the stream longer"
            )
        if problem:
            wrong.append(str(line.refusal(problem)))
        else:
            made.append(Prompt(start_ms, text, mode))
    _refuse(wrong)
    return tuple(made)
