"""Widgets that several nodes have, each with one range for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from comfy_api.v0_0_2 import io

from ...model_patches.viewers.mailbox import MAX_SEED

SIDE = {"min": 16, "max": 8192, "step": 16}  # pixels
GIVES_NOTHING = "a node that is bypassed or muted gives nothing"  # ends a refusal of what is not connected
LONGEST_SECONDS = 366 * 86400.0  # of a planned video, and of one prompt in it


def width_input(tooltip: str = "In pixels.") -> io.Int.Input:
    """The widget of a stream's width."""
    return io.Int.Input("width", default=832, tooltip=tooltip, **SIDE)


def height_input(tooltip: str = "In pixels.") -> io.Int.Input:
    """The widget of a stream's height."""
    return io.Int.Input("height", default=480, tooltip=tooltip, **SIDE)


def seconds_input(name: str, default: float, least: float, tooltip: str) -> io.Float.Input:
    """The widget of a length in seconds of the video."""
    return io.Float.Input(name, default=default, min=least, max=LONGEST_SECONDS, step=0.5, tooltip=tooltip)


def seed_input(tooltip: str) -> io.Int.Input:
    """The widget of a stream's seed, as large as the host's own samplers take it."""
    return io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip)


def fps_input() -> io.Float.Input:
    """The widget of the video's speed."""
    return io.Float.Input(
        "fps",
        default=16.0,
        min=1.0,
        max=120.0,
        # pages show and keep as many places as a step has; the arrows' own step is in web/rivulet.js
        step=0.001,
        tooltip="Pictures a second; 23.976, 29.97 and 59.94 mean 24000/1001 and so on.",
    )


def refuse_nan(who: str, inputs: Mapping[str, object]) -> None:
    """ValueError for what is no number: JSON of clients can say so, and the host's own limits let it pass."""
    for name, value in inputs.items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{who}: {name} is not a number (NaN); send one.")
