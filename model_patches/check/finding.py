"""What a check found, as one value, and how so many of them are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

OK, SLOW, BROKEN, SKIPPED = "ok", "slow", "broken", "skipped"
VERDICTS = (BROKEN, SLOW, OK, SKIPPED)  # in the order of a summary

Figure = float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    name: str
    verdict: str  # one of VERDICTS
    said: str  # what was found, one sentence or part of one
    way_round: str = ""  # what a stream does instead, or what the user can do
    figures: Mapping[str, Figure] = field(default_factory=dict)  # by name with unit
    seconds: float = 0.0  # that it took

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(
                f"Finding {self.name}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}."
            )

    @property
    def line(self) -> str:
        """Verdict first, for a table."""
        text = f"{self.verdict:<8} {self.name}: {self.said}"
        return f"{text}\n{'':8} way round: {self.way_round}" if self.way_round else text


def compared(
    name: str, error: float, tolerance: float, what: str, way_round: str, figures: Mapping[str, Figure] = {}
) -> Finding:
    """The finding of an error held against its tolerance; NaN is broken."""
    within = error <= tolerance
    said = f"{what} {error:.2g}, {'at most' if within else 'more than'} {tolerance:.2g}"
    numbers = {"error": error, "tolerance": tolerance, **figures}
    return Finding(name, OK if within else BROKEN, said, "" if within else way_round, numbers)


def summary(findings: Sequence[Finding], seconds: float) -> str:
    """How many of each verdict, in one line."""
    counts = {verdict: sum(each.verdict == verdict for each in findings) for verdict in VERDICTS}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"{said or 'nothing was checked'}; {seconds:.0f} s"


def table(findings: Sequence[Finding], seconds: float) -> str:
    """All findings, a line each with the way round below it, and the summary."""
    return "\n".join([*(finding.line for finding in findings), summary(findings, seconds)])
