"""What a card would have to do or wait for, written down with the place in the pack that asked for it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK = f"{ROOT}/"
# in the folder of the pack, and no part of it
TESTS = tuple(f"{ROOT / folder}/" for folder in ("tests", ".venv"))

WAIT = "wait"  # the program waits until the card has a number for it
TO_HOST = "to host"  # a copy that the program waits for
TO_CARD = "to card"  # a copy from memory that is not pinned, which goes through the driver's own buffer
FREE_TO_HOST = "to host, pinned"  # a copy into pinned memory that nobody waits for
FREE_TO_CARD = "to card, pinned"
STRIDED = "strided"  # arithmetic over a large tensor that does not lie as it is read
REPACKED = "repacked"  # a copy of a large tensor into another order
LAUNCH = "launch"  # of a Triton kernel
ATTENTION = "attention"  # with the backend that takes it
CAPPED = (WAIT, TO_HOST, TO_CARD, STRIDED)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was asked for, in the pack or in the host it runs in; tests are no part of it."""

    file: str
    function: str
    line: int


@dataclass(frozen=True, slots=True)
class Row:
    """What one function asked for, however often."""

    kind: str
    file: str
    function: str
    what: str
    count: int
    bytes: int


Key = tuple[str, Place, str]  # kind, place, and what it was


@dataclass(frozen=True, slots=True)
class Section:
    """What was asked for while one thing was done, for instance one block."""

    label: str
    counts: Counter[Key] = field(default_factory=Counter)
    bytes: Counter[Key] = field(default_factory=Counter)

    def by_file(self) -> dict[tuple[str, str], int]:
        """How often each kind of CAPPED was asked for, by (kind, file)."""
        counts: Counter[tuple[str, str]] = Counter()
        for (kind, at, _), count in self.counts.items():
            if kind in CAPPED:
                counts[kind, at.file] += count
        return dict(counts)

    def lines(self, kind: str, file: str) -> str:
        """The lines of a file that asked for this kind, for a message."""
        found: Counter[str] = Counter()
        for (each, at, what), count in self.counts.items():
            if (each, at.file) == (kind, file):
                found[f"{at.file}:{at.line} in {at.function} ({what})"] += count
        return "; ".join(f"{count} at {where}" for where, count in found.most_common())

    def rows(self) -> list[Row]:
        """By kind, the most frequent first."""
        counts: Counter[tuple[str, str, str, str]] = Counter()
        nbytes: Counter[tuple[str, str, str, str]] = Counter()
        for key, count in self.counts.items():
            kind, at, what = key
            counts[kind, at.file, at.function, what] += count
            nbytes[kind, at.file, at.function, what] += self.bytes[key]
        rows = [Row(*key, count, nbytes[key]) for key, count in counts.items()]
        return sorted(rows, key=lambda row: (row.kind, -row.count, row.file, row.function, row.what))

    def table(self) -> str:
        """The rows as text, one a line."""
        cells = [
            (row.kind, row.file, row.function, row.what, str(row.count), str(row.bytes))
            for row in self.rows()
        ]
        head = ("kind", "file", "function", "what", "count", "bytes")
        widths = [max(len(line[column]) for line in (head, *cells)) for column in range(len(head))]
        return "\n".join(_lines(widths, head, *cells))


class Watch:
    """Sections in the order of their beginnings; one without a label is there from the start."""

    def __init__(self) -> None:
        self.sections = [Section("")]
        self.host: Path | None = None  # folder of the program that the pack runs in; its files count, too

    def begin(self, label: str) -> None:
        """From here on something else is done."""
        self.sections.append(Section(label))

    def note(self, kind: str, what: str = "", nbytes: int = 0) -> None:
        """Writes one down, at the place of the pack, or of its host, that is running."""
        key = kind, place(self.host), what
        section = self.sections[-1]
        section.counts[key] += 1
        section.bytes[key] += nbytes

    def sections_of(self, label: str) -> list[Section]:
        return [section for section in self.sections if section.label == label]

    def table(self, label: str) -> str:
        """Of the newest section of this label."""
        return self.sections_of(label)[-1].table()


def place(host: Path | None = None) -> Place:
    """The innermost function of the pack, or of a program in the folder `host`, that is running."""
    beside = f"{host}/" if host else None
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        for root in (PACK, beside):
            if root and name.startswith(root) and not name.startswith(TESTS):
                return Place(name.removeprefix(root), frame.f_code.co_name, frame.f_lineno)
        frame = frame.f_back
    return Place("elsewhere", "", 0)


def _lines(widths: list[int], *lines: tuple[str, ...]) -> Iterator[str]:
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:4], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(line[4:], widths[4:], strict=True)]
        yield "  ".join(cells).rstrip()
