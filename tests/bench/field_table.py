"""The tables of docs/field.md: methods beside the baseline, and standard errors of paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from .field_kept import Line, Values
from .field_methods import BASELINE

FRAME_TOKENS = 1560  # of a latent frame at 832x480
NONE = "-"  # in place of what was not measured
QUALITY = {"adherence_share": "adheres, %", "strict_share": "strictly right, %"}
RECALL = {"recall": "", "strict_recall": "strictly, "}
SPEED = ("speed_sides_per_picture", "truth_sides_per_picture")


@dataclass(frozen=True)
class Compared:
    """A mean, and how far it is from the baseline's over what both have."""

    mean: float
    count: int
    difference: float | None = None  # None: nothing to compare with
    error: float | None = None  # standard error of the difference; None: of a single pair

    def cell(self) -> str:
        """In per cent: the mean, and the difference with its standard error."""
        if self.difference is None:
            return f"{100 * self.mean:.1f}"
        error = "" if self.error is None else f" ± {100 * self.error:.1f}"
        return f"{100 * self.mean:.1f} ({100 * self.difference:+.1f}{error})"


def paired(mine: Values, baseline: Values) -> Compared | None:
    """The mean of values, and of their differences from the baseline's where both have one."""
    known = [one for one in mine if one is not None]
    if not known:
        return None
    apart = [a - b for a, b in zip(mine, baseline, strict=False) if a is not None and b is not None]
    if not apart:
        return Compared(fmean(known), len(known))
    error = stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else None
    return Compared(fmean(known), len(known), fmean(apart), error)


def paired_ratio(mine: Values, baseline: Values, truth: Values) -> Compared | None:
    """The same of mean speeds over the truth's mean speed; the error is of the ratios' difference, as both
    are of the same scenes."""
    known = [(a, t) for a, t in zip(mine, truth, strict=True) if a is not None and t is not None]
    if not known:
        return None
    ratio = fmean(a for a, _ in known) / fmean(t for _, t in known)
    both = [
        (a - b, t)
        for a, b, t in zip(mine, baseline, truth, strict=False)
        if a is not None and b is not None and t is not None
    ]
    if not both:
        return Compared(ratio, len(known))
    scale = fmean(t for _, t in both)
    difference = fmean(d for d, _ in both) / scale
    off = [d - difference * t for d, t in both]
    error = stdev(off) / len(off) ** 0.5 / scale if len(off) > 1 else None
    return Compared(ratio, len(known), difference, error)


@dataclass(frozen=True)
class Field:
    """Lines of the newest weights of each method."""

    lines: Sequence[Line]

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Field:
        """Of a file's lines: what was measured with other weights than a method's newest line is left out."""
        newest = {(line.part, line.method): line.weights for line in lines}
        return cls([line for line in lines if newest[line.part, line.method] == line.weights])

    def methods(self) -> list[str]:
        """In the order of the file, the baseline first."""
        found = dict.fromkeys(line.method for line in self.lines)
        return sorted(found, key=lambda name: name != BASELINE)

    def needs(self, method: str) -> str:
        """What a user of a method must have."""
        return next(line.needs for line in reversed(self.lines) if line.method == method)

    def spans(self, part: str) -> list[str]:
        """Of a part, in the order of the file."""
        return list(dict.fromkeys(line.span for line in self.lines if line.part == part))

    def settings(self, part: str) -> list[str]:
        """Of a part, in the order of the file."""
        return list(dict.fromkeys(line.setting for line in self.lines if line.part == part))

    def figure(self, part: str, method: str) -> Line | None:
        """The newest line of a part of a method."""
        return next((one for one in reversed(self.lines) if (one.part, one.method) == (part, method)), None)

    def values(self, part: str, method: str, span: str, name: str) -> tuple[Values, Values]:
        """(a method's values, the baseline's of the same streams or stories) over all settings."""
        mine: list[float | None] = []
        baseline: list[float | None] = []
        for setting in self.settings(part):
            some, others = (self._of(part, each, setting, span, name) for each in (method, BASELINE))
            mine += some
            unpaired = method == BASELINE or len(some) != len(others)
            baseline += [None] * len(some) if unpaired else others
        return mine, baseline

    def _of(self, part: str, method: str, setting: str, span: str, name: str) -> Values:
        key = part, method, setting, span
        of = [one for one in self.lines if (one.part, one.method, one.setting, one.span) == key]
        return of[-1].values[name] if of else ()


def table(lines: Sequence[Line]) -> str:
    """Markdown: costs and the first seconds of ordinary prompts, later seconds, recall, what was measured."""
    field = Field.of(lines)
    parts = [*_costs(field)]
    for span in field.spans("quality")[1:]:
        parts += ["", f"Later, {span} into the stream:", "", *_later(field, span)]
    if field.spans("recall"):
        parts += ["", "Comes back after so many windows behind the band, in %:", "", *_recall(field)]
    measured = {"Streams": "quality", "Stories": "recall"}
    said = [f"{what}: {'; '.join(field.settings(part))}." for what, part in measured.items()]
    return "\n".join([*parts, "", " ".join(said), ""])


def _costs(field: Field) -> Iterable[str]:
    first = next(iter(field.spans("quality")), "")
    yield _row(
        "method", "needs", "bytes a token and layer", "attended tokens", "time of a block",
        *QUALITY.values(), "speed, %",
    )  # fmt: skip
    yield "|---" * 8 + "|"
    for method in field.methods():
        cost, time = field.figure("cost", method), field.figure("time", method)
        figures = {} if cost is None else cost.figures
        tokens = f"{figures['attended_frames'] * FRAME_TOKENS:,.0f}" if cost else NONE
        size = f"{figures['bytes_per_token_layer']:.0f}" if cost else NONE
        yield _row(
            f"`{method}`", field.needs(method), size, tokens, _time(time), *_shown(field, method, first)
        )


def _later(field: Field, span: str) -> Iterable[str]:
    yield _row("method", *QUALITY.values(), "speed, %")
    yield "|---" * 4 + "|"
    for method in field.methods():
        yield _row(f"`{method}`", *_shown(field, method, span))


def _shown(field: Field, method: str, span: str) -> Iterable[str]:
    for name in QUALITY:
        yield _cell(paired(*field.values("quality", method, span, name)))
    speed, baseline = field.values("quality", method, span, SPEED[0])
    truth, _ = field.values("quality", method, span, SPEED[1])
    yield _cell(paired_ratio(speed, baseline, truth))


def _recall(field: Field) -> Iterable[str]:
    spans = field.spans("recall")
    yield _row("method", *(f"{said}{span}" for said in RECALL.values() for span in spans))
    yield "|---" * (1 + len(RECALL) * len(spans)) + "|"
    for method in field.methods():
        found = (paired(*field.values("recall", method, span, name)) for name in RECALL for span in spans)
        yield _row(f"`{method}`", *map(_cell, found))


def _time(line: Line | None) -> str:
    if line is None:
        return NONE
    low, middle, high = (
        line.figures[f"{quartile}cpu_to_off_ratio"] for quartile in ("lower_quartile_", "", "upper_quartile_")
    )
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _cell(compared: Compared | None) -> str:
    return NONE if compared is None else compared.cell()


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
