"""Recall over the time hidden, one curve a policy, from rows of `bench recall`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .curves import Curve, draw_curves

Point = Mapping[str, float | str]
COLOURS = {
    "full": (120, 120, 120),
    "window": (200, 150, 40),
    "window+sink": (160, 100, 60),
    "ema": (150, 80, 180),
    "memrope": (90, 170, 200),
    "learned": (214, 60, 40),
    "learned+latent": (38, 110, 200),
    "learned+mla": (40, 150, 90),
}
OTHER = (220, 120, 170)
CHANCE = 1 / 15  # five colours, the ground's is out, times three shapes
LABEL_ACROSS = "hidden for so many windows (of 9 latent frames, 2.25 s)"
LABEL_UP = "share of trials in which colour and shape came out as they went in"


def read(paths: Sequence[Path]) -> list[Point]:
    """Rows of files that `bench recall` printed; of rows for the same point the last one counts."""
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    shown = [row for row in rows if row.get("row") == "recall" and row.get("mode") != "own"]
    last = {(row["policy"], row["hidden_blocks"]): row for row in shown}
    return list(last.values())


def draw(points: Iterable[Point], path: Path) -> None:
    """Draw the curves of all policies, what chance reaches, and what the VAE lets through.

    Points of which no trial told a story have no recall, and are left out.
    """
    shown = [point for point in points if point["policy"] != "truth" and "recall" in point]
    if not shown:
        raise ValueError("bench recall: no policy has a point to draw; measure one.")
    ceiling = [float(point["recall"]) for point in points if point["policy"] == "truth"]
    levels = {"drawn at random": CHANCE} | ({"the truth itself": ceiling[-1]} if ceiling else {})
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in COLOURS}
    for point in shown:
        at = float(point["hidden_windows"]), float(point["recall"])
        lines.setdefault(str(point["policy"]), []).append(at)
    curves = [Curve(name, COLOURS.get(name, OTHER), line) for name, line in lines.items() if line]
    windows = sorted({float(point["hidden_windows"]) for point in shown})
    draw_curves(curves, windows, levels, (LABEL_ACROSS, LABEL_UP), path)
