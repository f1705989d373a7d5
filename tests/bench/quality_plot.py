"""Speed over time, one curve for each way to make streams, from rows of `bench quality`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .curves import Curve, draw_curves

Row = Mapping[str, str | float]

COLOURS = ((120, 120, 120), (214, 60, 40), (38, 110, 200), (40, 150, 90), (150, 80, 180), (200, 150, 40))
TICKS_SECONDS = (0.5, 1, 2, 5, 10)
LATE_SECONDS = (60, 600)
LABEL_ACROSS = "seconds of video"
LABEL_UP = "speed of the objects, of their speed in the world"


def read(paths: Sequence[Path]) -> list[Row]:
    """Rows of speed in files that `bench quality` printed."""
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    return [row for row in rows if row.get("row") == "speed" and row.get("case") != "true_past"]


def draw(rows: Iterable[Row], path: Path) -> None:
    """Draw the ratio of speeds at the middle of each row's seconds; of rows for one time the last counts."""
    lines: dict[str, dict[float, float]] = {}
    for row in rows:
        middle = (float(row["from_seconds"]) + float(row["to_seconds"])) / 2
        lines.setdefault(_name(row), {})[middle] = float(row["speed_ratio"])
    if not lines:
        raise ValueError("there is no row of speed to draw; measure one.")
    last = max(max(line) for line in lines.values())
    ticks = [*TICKS_SECONDS, *(late for late in LATE_SECONDS if late <= last * 1.1)]
    curves = [
        Curve(name, COLOURS[index % len(COLOURS)], list(line.items()))
        for index, (name, line) in enumerate(lines.items())
    ]
    draw_curves(curves, ticks, {"the world": 1.0}, (LABEL_ACROSS, LABEL_UP), path)


def _name(row: Row) -> str:
    memory = "" if row["memory"] == "off" else f" + {row['memory']}"
    past = ", true past" if row["case"] == "from_truth" else ""
    drawn = row.get("combinations", "all")
    of = "" if drawn == "all" else f"{drawn}: "
    return f"{of}{row['format']}{memory}{past}"
