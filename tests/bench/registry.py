"""The pictures of the pack's page in the registry: an icon, and a banner 21 wide and 9 high."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .records import Rows

ICON, BANNER = (400, 400), (1260, 540)  # pixels, the most that the registry takes for an icon
FINE = 4  # drawn so many times as large, for smooth edges
TOP, BOTTOM, DEEP, WATER, INK = (13, 24, 40), (16, 62, 70), (30, 92, 102), (46, 134, 142), (236, 246, 247)
SCENES = (  # ground, shape and colour, of the built-in world
    ((58, 160, 84), "circle", (222, 64, 60)),
    ((60, 96, 214), "square", (240, 206, 70)),
    ((196, 62, 176), "triangle", (74, 206, 214)),
)
WAVE, LENGTH = 0.09, 1.2  # of the water: its height and its length; like all here, of the picture's height


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the two pictures")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when both are written."""
    for name, picture in (("icon", icon()), ("banner", banner())):
        file = chosen.out / f"{name}.png"
        picture.save(file, optimize=True)
        rows("picture", file=str(file), file_bytes=file.stat().st_size)
    return 0


def icon() -> Image.Image:
    """Three frames on a wave."""
    return drawn(ICON, frames=3, begin=0.18, step=0.32, side=0.27)


def banner() -> Image.Image:
    """The same wave, which leaves at the right, under the name."""
    picture = drawn(BANNER, frames=8, begin=0.14, step=0.3, side=0.24)
    pen = ImageDraw.Draw(picture)
    pen.text((60, 36), "Rivulet", INK, ImageFont.load_default(112))
    pen.text((64, 440), "video that does not end, in ComfyUI", INK, ImageFont.load_default(38))
    return picture


def drawn(size: tuple[int, int], frames: int, begin: float, step: float, side: float) -> Image.Image:
    """Water, and frames of that side along it: the first one's middle at `begin`, each next one a step on."""
    width, height = size[0] * FINE, size[1] * FINE
    picture = Image.linear_gradient("L").resize((width, height))
    picture = Image.merge("RGB", [picture.point(between(*ends)) for ends in zip(TOP, BOTTOM, strict=True)])
    pen = ImageDraw.Draw(picture)
    for line, colour in ((-1, DEEP), (1, DEEP), (0, WATER)):
        for x in range(0, width, FINE):
            y, half = level(x, height) + line * 0.1 * height, 0.012 * height
            pen.ellipse((x - half, y - half, x + half, y + half), colour)
    for number in range(frames):
        x = (begin + number * step) * height
        scene(picture, (x, level(x, height)), side * height, *SCENES[number % len(SCENES)])
    return picture.resize(size, Image.Resampling.LANCZOS)


def between(low: int, high: int) -> list[int]:
    """The table from 0..255 to the numbers between two."""
    return [round(low + (high - low) * step / 255) for step in range(256)]


def level(x: float, height: int) -> float:
    """Where the water lies at x."""
    return height * (0.53 - WAVE * math.sin(2 * math.pi * x / (LENGTH * height)))


def scene(
    picture: Image.Image,
    middle: tuple[float, float],
    size: float,
    ground: tuple[int, int, int],
    shape: str,
    colour: tuple[int, int, int],
) -> None:
    """A frame of the built-in world, around the middle."""
    pen, (x, y), half, inner = ImageDraw.Draw(picture), middle, size / 2, size * 0.27
    pen.rounded_rectangle(
        (x - half, y - half, x + half, y + half), size * 0.14, ground, INK, round(size * 0.045)
    )
    if shape == "circle":
        pen.ellipse((x - inner, y - inner, x + inner, y + inner), colour)
    elif shape == "square":
        pen.rectangle((x - inner, y - inner, x + inner, y + inner), colour)
    else:
        pen.polygon([(x, y - inner), (x + inner, y + inner), (x - inner, y + inner)], colour)
