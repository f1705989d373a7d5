"""Pictures for the dialog of templates: moments of a video that was made, or a drawing of the graph.

A template whose weights were never run has no picture of its own, so it shows its nodes and their links.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rivulet.tests.host.workflows import FOLDER, NOTE, Story

SIDE = 384  # pixels of a square, as large as the page shows it
MARGIN, HEAD, FOOT = 16, 132, 112  # of the drawing: at the sides, for the model's name, for the title
GROUND, BOX, LINE, TEXT = "#16212b", "#3d4b57", "#8fa3b3", "#f2f6f8"
OURS = (
    "#1f8a8c",
    "#b4652c",
    "#7a5bb5",
    "#3f7fc4",
    "#a8436e",
)  # of nodes of this pack, by the template's number


def moments(made: list[np.ndarray]) -> Image.Image:
    """Four moments of a video, each [height, width, 3] as uint8."""
    chosen = [made[round(share * (len(made) - 1))] for share in (0.1, 0.4, 0.7, 1.0)]
    rows = [np.concatenate(pair, 1) for pair in (chosen[:2], chosen[2:])]
    return Image.fromarray(np.concatenate(rows)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def drawing(name: str, story: Story) -> Image.Image:
    """The nodes and links of a template without its notes, its model's name above, what it does below."""
    picture = Image.new("RGB", (SIDE, SIDE), GROUND)
    draw = ImageDraw.Draw(picture)
    # the page lays a label over the upper left corner
    _words(draw, (MARGIN, 48), story.model, 46, SIDE - 2 * MARGIN)
    frames, ours = _frames(story), OURS[int(name[:2]) % len(OURS)]
    for number, box in story.boxes.items():
        for given in (value for value in box.inputs.values() if isinstance(value, tuple)):
            source, target = frames[given[0]], frames[number]
            start, end = (source[2], (source[1] + source[3]) / 2), (target[0], (target[1] + target[3]) / 2)
            draw.line([start, end], LINE, 3)
    for number, frame in frames.items():
        draw.rounded_rectangle(frame, 6, ours if story.boxes[number].type.startswith("Rivulet") else BOX)
    for row, line in enumerate(textwrap.wrap(story.says, 24)):
        _words(draw, (MARGIN, SIDE - FOOT + 24 + 36 * row), line, 30, SIDE - 2 * MARGIN)
    return picture


def _frames(story: Story) -> dict[int, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each node in the drawing."""
    places = {id: at for id, at in story.places().items() if story.boxes[id].type != NOTE}
    right = max(x + story.boxes[id].size[0] for id, (x, _) in places.items())
    bottom = max(y + story.boxes[id].size[1] for id, (_, y) in places.items())
    across, down = (SIDE - 2 * MARGIN) / right, (SIDE - HEAD - FOOT) / bottom
    return {
        id: (
            MARGIN + x * across,
            HEAD + y * down,
            MARGIN + (x + story.boxes[id].size[0]) * across,
            HEAD + (y + story.boxes[id].size[1]) * down,
        )
        for id, (x, y) in places.items()
    }


def _words(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, wide: int) -> None:
    """Text, as large as told or as much smaller as fits the width."""
    font: Any = ImageFont.load_default(size)
    if (length := draw.textlength(text, font)) > wide:
        font = ImageFont.load_default(size * wide / length)
    draw.text(at, text, TEXT, font)


def save(name: str, picture: Image.Image) -> Path:
    """Writes a template's thumbnail."""
    path = FOLDER / f"{name}.jpg"
    picture.save(path, quality=90)
    return path
