"""Where a stream that goes on from a true past loses speed: in free flight, at a turn, or after one.

An object turns at a wall and at another object. Turns are the world's; a stream is told by them for its first
seconds alone, while its objects are near where the world has them.

F pixel frames, E quarter seconds, N objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...pocket import motion, world
from ...pocket.looks import COLOURS
from ...pocket.verdict import Judged
from .quality_figures import between, speed_figures, stream_speed
from .quality_plot import Row

TOLD_SECONDS = 3.0
LEAST_TURN = 1e-4  # change of velocity from one frame to the next, sides per frame: above rounding
FLIGHTS = ("free", "turning", "turned")


def flights(place_FN2: Tensor, fps: int, since: int) -> dict[str, Tensor]:
    """For each flight, which quarter seconds [E, N] are of it; turns before frame `since` do not count."""
    span = fps // motion.SPANS_PER_SECOND
    turns_FN = torch.zeros(place_FN2.shape[:2], dtype=torch.bool)
    turns_FN[1:-1] = place_FN2.diff(dim=0).diff(dim=0).norm(dim=-1) > LEAST_TURN
    turns_FN[:since] = False
    begun_FN = turns_FN.cumsum(0) > 0
    starts = range(len(place_FN2) - span)
    turning_EN = torch.stack([turns_FN[max(0, e - 1) : e + span + 1].any(0) for e in starts])
    turned_EN = begun_FN[: len(starts)] & ~turning_EN
    return {"free": ~turning_EN & ~turned_EN, "turning": turning_EN, "turned": turned_EN}


def speeds_by_flight(
    scenes: world.Scenes, streams: Sequence[Judged], given_frames: int, fps: int
) -> list[Row]:
    """A row of figures for each flight that is seen, of the first seconds after so many given frames."""
    frames = len(streams[0].frames)
    names, rows = list(COLOURS), []
    own: dict[str, list[float | None]] = {flight: [] for flight in FLIGHTS}
    true: dict[str, list[float | None]] = {flight: [] for flight in FLIGHTS}
    for places_FN2, colour_N, stream in zip(
        world.simulate(scenes, frames), scenes.colour_BN.tolist(), streams, strict=True
    ):
        order = [colour_N.index(names.index(colour)) for colour, _ in stream.objects]
        places_FN2 = places_FN2[:, order]
        world_EN = motion.speeds(places_FN2, fps)
        for flight, there_EN in flights(places_FN2, fps, given_frames - 1).items():
            for found, speed_EN in ((own, stream.speed_EN), (true, world_EN)):
                told = speed_EN.where(there_EN & ~stream.speed_EN.isnan(), torch.nan)
                found[flight].append(stream_speed(between(told[given_frames:], fps, 0.0, TOLD_SECONDS)))
    for flight in FLIGHTS:
        if figures := speed_figures(own[flight], true[flight]):
            rows.append(
                {"case": f"from_truth_{flight}", "from_seconds": 0.0, "to_seconds": TOLD_SECONDS, **figures}
            )
    return rows
