"""Bytes against error, one mark a format, both on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 960, 600, 90, 50, 40, 70
INK, FAINT, GROUND = (32, 36, 44), (214, 218, 226), (255, 255, 255)
COLOURS = {"dense": (120, 120, 120), "int8": (38, 110, 200), "latent": (214, 84, 40), "mla": (40, 150, 90)}


def draw(points: Sequence[Mapping[str, float | str]], path: Path) -> None:
    """Draw every format that has an error above 0; the others have nothing to show on this axis."""
    shown = [point for point in points if float(point.get("attention_error", 0)) > 0]
    if not shown:
        raise ValueError("bench cache: no format has an error to draw; measure one beside dense.")
    picture = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    across = Axis([float(p["bytes_per_token_layer"]) for p in shown], LEFT, WIDTH - RIGHT)
    up = Axis([100 * float(p["attention_error"]) for p in shown], HEIGHT - BOTTOM, TOP)
    for tick in across.ticks():
        x = across(tick)
        pen.line([(x, TOP), (x, HEIGHT - BOTTOM)], FAINT)
        pen.text((x, HEIGHT - BOTTOM + 8), f"{tick:g}", INK, font, anchor="mt")
    for tick in up.ticks():
        y = up(tick)
        pen.line([(LEFT, y), (WIDTH - RIGHT, y)], FAINT)
        pen.text((LEFT - 8, y), f"{tick:g} %", INK, font, anchor="rm")
    pen.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 18), LABEL_ACROSS, INK, font, anchor="mb")
    pen.text((LEFT, 18), LABEL_UP, INK, font, anchor="lm")
    taken: list[tuple[float, float, float, float]] = []
    for point in shown:
        _mark(pen, font, point, across, up, taken)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


LABEL_ACROSS = "bytes per token and layer at Wan 1.3B's width (dense bfloat16: 6144)"
LABEL_UP = "error of attention's output on held-out prompts, pocket model"


def _mark(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    point: Mapping[str, float | str],
    across: Axis,
    up: Axis,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """A dot and its name, beside the dot wherever no other name stands."""
    name = str(point["format"])
    x, y = across(float(point["bytes_per_token_layer"])), up(100 * float(point["attention_error"]))
    colour = COLOURS.get(name.split("_")[0], INK)
    pen.ellipse([x - 6, y - 6, x + 6, y + 6], colour)
    for offset, anchor in (
        ((12, 0), "lm"),
        ((-12, 0), "rm"),
        ((0, -12), "mb"),
        ((0, 12), "mt"),
        ((12, 18), "lm"),
    ):
        place = (x + offset[0], y + offset[1])
        box = pen.textbbox(place, name, font, anchor=anchor)
        inside = box[0] > LEFT and box[2] < WIDTH - 4
        if inside and not any(_meet(box, other) for other in taken):
            break
    pen.text(place, name, colour, font, anchor=anchor)
    taken += [box, (x - 6, y - 6, x + 6, y + 6)]


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class Axis:
    """Numbers to pixels, logarithmic, with room around them."""

    def __init__(self, numbers: Sequence[float], start: float, stop: float) -> None:
        low, high = math.log(min(numbers)), math.log(max(numbers))
        room = 0.1 * (high - low) + 0.1
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def __call__(self, number: float) -> float:
        """Pixels."""
        share = (math.log(number) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round numbers inside the axis, times powers of ten."""
        powers = range(math.floor(self.low / math.log(10)), math.ceil(self.high / math.log(10)) + 1)
        found = [times * 10.0**power for power in powers for times in (1, 1.5, 2, 3, 5, 7)]
        return [tick for tick in found if self.low <= math.log(tick) <= self.high]
