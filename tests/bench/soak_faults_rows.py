"""What `soak --faults` prints: a row of JSON for each kind of fault, one for each part and one for all."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from .records import Rows
from .soak_faults_trials import Tally, Trials

FRAMES = ("compared", "other", "lost")  # what is counted in pictures


def complain(sentence: str) -> None:
    """Says what was wrong, beside the rows."""
    print(f"soak: {sentence}", file=sys.stderr, flush=True)


def told(trials: Trials, rows: Rows) -> dict[str, Any]:
    """Prints a row for each kind of fault and one for the part, which is returned."""
    target = trials.maker.name
    for kind, tally in sorted(trials.tallies.items()):
        rows("faults", target=target, case=kind, **figures(tally), ok=not tally.bad)
    whole = sum_of(trials.tallies.values())
    part = {"takes_trials": trials.takes, "unfinished_trials": trials.unfinished, **figures(whole)}
    ok = not whole.bad and not trials.unfinished
    rows("part", target=target, seconds=trials.seconds, **part, ok=ok)
    return {**part, "ok": ok}


def sum_of(tallies: Iterable[Tally]) -> Tally:
    """All of them in one."""
    many = list(tallies)
    return Tally(**{each.name: sum(getattr(tally, each.name) for tally in many) for each in fields(Tally)})


def figures(tally: Tally) -> dict[str, int]:
    """Names and values of a row."""
    units = {each.name: "frames" if each.name in FRAMES else "trials" for each in fields(Tally)}
    return {f"{name}_{unit}": getattr(tally, name) for name, unit in units.items()}


def together(parts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The sums of the parts' rows."""
    many = list(parts)
    return {
        name: sum(part[name] for part in many) for name in many[0] if name.endswith(("_trials", "_frames"))
    }
