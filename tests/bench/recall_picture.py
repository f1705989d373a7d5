"""Recall over the time hidden, one curve a policy, from rows of `bench recall`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Point = Mapping[str, float | str]
Pen = ImageDraw.ImageDraw
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 960, 600, 80, 50, 190, 70
INK, FAINT, GROUND = (32, 36, 44), (214, 218, 226), (255, 255, 255)
COLOURS = {
    "full": (120, 120, 120),
    "window": (200, 150, 40),
    "window+sink": (160, 100, 60),
    "ema": (150, 80, 180),
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
    last = {(row["policy"], row["hidden_blocks"]): row for row in rows if row.get("row") == "recall"}
    return list(last.values())


def draw(points: Iterable[Point], path: Path) -> None:
    """Draw the curves of all policies, what chance reaches, and what the VAE lets through."""
    shown = [point for point in points if point["policy"] != "truth"]
    if not shown:
        raise ValueError("bench recall: no policy has a point to draw; measure one.")
    ceiling = [float(point["recall"]) for point in points if point["policy"] == "truth"]
    picture = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    across = _Axis([float(point["hidden_windows"]) for point in shown])
    _grid(pen, font, sorted({float(point["hidden_windows"]) for point in shown}), across)
    _level(pen, font, CHANCE, "drawn at random")
    if ceiling:
        _level(pen, font, ceiling[-1], "the truth itself")
    taken: list[float] = []
    for name in dict.fromkeys([*COLOURS, *(str(point["policy"]) for point in shown)]):
        curve = sorted(
            (across(float(point["hidden_windows"])), _up(float(point["recall"])))
            for point in shown
            if point["policy"] == name
        )
        if curve:
            _curve(pen, font, name, COLOURS.get(name, OTHER), curve, taken)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


class _Axis:
    """Windows to pixels, logarithmic."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.low, high = math.log(min(numbers)), math.log(max(numbers))
        self.room = (high - self.low) or 1.0

    def __call__(self, number: float) -> float:
        share = (math.log(number) - self.low) / self.room
        return LEFT + 30 + share * (WIDTH - RIGHT - LEFT - 60)


def _up(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _grid(pen: Pen, font: Font, windows: Sequence[float], across: _Axis) -> None:
    for number in windows:
        x = across(number)
        pen.line([(x, TOP), (x, HEIGHT - BOTTOM)], FAINT)
        label = f"{number:g}" if number == int(number) else f"{number:.2f}"
        pen.text((x, HEIGHT - BOTTOM + 8), label, INK, font, anchor="mt")
    for percent in range(0, 101, 20):
        y = _up(percent / 100)
        pen.line([(LEFT, y), (WIDTH - RIGHT, y)], FAINT)
        pen.text((LEFT - 8, y), f"{percent} %", INK, font, anchor="rm")
    pen.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 18), LABEL_ACROSS, INK, font, anchor="mb")
    pen.text((LEFT, 18), LABEL_UP, INK, font, anchor="lm")


def _level(pen: Pen, font: Font, share: float, label: str) -> None:
    """A dashed line across."""
    y = _up(share)
    for x in range(LEFT, WIDTH - RIGHT, 12):
        pen.line([(x, y), (x + 6, y)], INK)
    pen.text((LEFT + 6, y - 4), label, INK, font, anchor="lb")


def _curve(
    pen: Pen,
    font: Font,
    name: str,
    colour: tuple[int, int, int],
    curve: Sequence[tuple[float, float]],
    taken: list[float],
) -> None:
    """A line with its dots, and its name at the end, below the names already there."""
    pen.line(curve, colour, 3)
    for x, y in curve:
        pen.ellipse([x - 5, y - 5, x + 5, y + 5], colour)
    y = curve[-1][1]
    while any(abs(y - other) < 18 for other in taken):
        y += 6
    taken.append(y)
    pen.text((WIDTH - RIGHT + 8, y), name, colour, font, anchor="lm")
