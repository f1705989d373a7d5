"""Streams that go on from a true past: which speed do they take from it, and how fast do they lose it?

B streams, F pixel frames, H/W pixels, E quarter seconds, N objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ...model_patches.stream.step import prefill, step
from ...model_patches.vae.decoder import decode_stream, encode_stream
from ...model_patches.vae.wan import TIME_STRIDE
from ...pocket import motion, world
from ...pocket.choices import Choice
from .quality_figures import Span, adherence, between, judged_streams, speed_figures, stream_speed, strictness
from .quality_plot import Row
from .quality_truth import rendered
from .quality_turns import speeds_by_flight
from .records import Rows

GIVEN_LATENTS = 13  # of true past, more than sink and window hold
GIVEN_FRAMES = 1 + TIME_STRIDE * (GIVEN_LATENTS - 1)
STRETCHES_SECONDS = (0.0, 1.5, 3.0)  # where those that are told apart begin, from the end of the true past


def from_truth(
    rows: Rows,
    asked: Choice,
    scenes: world.Scenes,
    seconds: int,
    seed: int,
    how: Mapping[str, str | float],
) -> list[Row]:
    """A row of speed for the true past and each stretch after it, beside the world's speed at that time.

    Then one of both verdicts on what was made. how: what every row says of the streams. Returns the rows of
    speed after the true past.
    """
    recipe, prompts = asked.pocket.recipe, scenes.prompts()
    fps = recipe.fps
    past = rendered(scenes, GIVEN_FRAMES, recipe.size)
    pixels = go_on(asked, prompts, past, seconds, seed)
    streams = judged_streams(Span(pixels, ()), prompts, fps)
    places = world.simulate(scenes, pixels.shape[1])
    true = [
        motion.speeds(one[:, there], fps) for one, there in zip(places, scenes.colour_BN >= 0, strict=True)
    ]
    seen = [one.speed_EN for one in streams]
    given = (1 - GIVEN_FRAMES) / fps
    curve: list[Row] = []
    for start, following in pairwise((given, *STRETCHES_SECONDS, seconds)):
        if start < (end := min(following, seconds)):
            cut = [[stretch(one, fps, start, end) for one in group] for group in (seen, true)]
            speeds, worlds = ([stream_speed(one) for one in group] for group in cut)
            case, at = "true_past" if start < 0 else "from_truth", {"from_seconds": start, "to_seconds": end}
            if figures := speed_figures(speeds, worlds):
                curve.append({"case": case, **at, **how, **figures})
                rows("speed", **curve[-1])
    for row in speeds_by_flight(scenes, streams, GIVEN_FRAMES, fps):
        rows("speed", **row, **how)
    made = [replace(one, frames=one.frames[GIVEN_FRAMES:], seen=one.seen[GIVEN_FRAMES:]) for one in streams]
    old, _ = adherence(Span(pixels[:, GIVEN_FRAMES:], ()), prompts, made)
    rows("quality", case="from_truth", to_seconds=seconds, **how, **old, **strictness(made))
    return [row for row in curve if row["case"] == "from_truth"]


def stretch(speed_EN: Tensor, fps: int, start: float, end: float) -> Tensor:
    """Of a true past and what was made after it: one of the two, from the end of the past, seconds.

    A quarter second that has pictures of both tells of neither.
    """
    if start < 0:
        return speed_EN[: GIVEN_FRAMES - fps // motion.SPANS_PER_SECOND]
    return between(speed_EN[GIVEN_FRAMES:], fps, start, end)


@torch.inference_mode()
def go_on(asked: Choice, prompts: list[str], past_BFHWC: Tensor, seconds: int, seed: int) -> Tensor:
    """Pictures [B, F, H, W, 3] of the past, as the VAE shows it, and of the seconds made after it."""
    pocket = asked.pocket
    text = torch.cat([pocket.encode(prompt) for prompt in prompts])
    state = pocket.begin(text, pocket.config(seed), cache=asked.cache, memory=asked.memory)
    given = torch.cat([encode_stream(pocket.vae, clip)[0] for clip in past_BFHWC])
    state, parts = prefill(pocket.caller, state, given), [given]
    wanted = GIVEN_LATENTS + seconds * pocket.recipe.fps // TIME_STRIDE
    while state.start_frame < wanted:
        made, state = step(pocket.caller, state)
        parts.append(made)
    latents = torch.cat(parts, 2)[:, :, :wanted]
    return torch.stack([decode_stream(pocket.vae, one[None])[0] for one in latents])
