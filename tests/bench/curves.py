"""Shares over a number that grows by doubling, as curves in one PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

Pen = ImageDraw.ImageDraw
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 960, 600, 80, 50, 190, 70
INK, FAINT, GROUND = (32, 36, 44), (214, 218, 226), (255, 255, 255)


class Curve(NamedTuple):
    """A line of points (number, share), in the colour of its name."""

    name: str
    colour: tuple[int, int, int]
    points: Sequence[tuple[float, float]]


def draw_curves(
    curves: Sequence[Curve],
    ticks: Sequence[float],
    levels: Mapping[str, float],
    labels: tuple[str, str],
    path: Path,
) -> None:
    """Draw curves over a logarithmic axis, and shares that hold everywhere as dashed lines.

    ticks: numbers that are written below. labels: of the axis across and of the one up.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    across = Axis([*ticks, *(number for curve in curves for number, _ in curve.points)])
    _grid(pen, font, ticks, across, labels)
    for label, share in levels.items():
        _level(pen, font, share, label)
    taken: list[float] = []
    for name, colour, points in curves:
        line = sorted((across(number), _up(share)) for number, share in points)
        _curve(pen, font, name, colour, line, taken)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


class Axis:
    """Numbers to pixels, logarithmic."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.low, high = math.log(min(numbers)), math.log(max(numbers))
        self.room = (high - self.low) or 1.0

    def __call__(self, number: float) -> float:
        share = (math.log(number) - self.low) / self.room
        return LEFT + 30 + share * (WIDTH - RIGHT - LEFT - 60)


def _up(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _grid(pen: Pen, font: Font, ticks: Sequence[float], across: Axis, labels: tuple[str, str]) -> None:
    for number in ticks:
        x = across(number)
        pen.line([(x, TOP), (x, HEIGHT - BOTTOM)], FAINT)
        label = f"{number:g}" if number == int(number) else f"{number:.2f}"
        pen.text((x, HEIGHT - BOTTOM + 8), label, INK, font, anchor="mt")
    for percent in range(0, 101, 20):
        y = _up(percent / 100)
        pen.line([(LEFT, y), (WIDTH - RIGHT, y)], FAINT)
        pen.text((LEFT - 8, y), f"{percent} %", INK, font, anchor="rm")
    pen.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 18), labels[0], INK, font, anchor="mb")
    pen.text((LEFT, 18), labels[1], INK, font, anchor="lm")


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
