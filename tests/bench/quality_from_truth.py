"""Streams that go on from a true past: which speed do they take from it, and how fast do they lose it?

B streams, F pixel frames, H/W pixels, E quarter seconds, N objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ...model_patches.cache.format import CacheFormat
from ...model_patches.memory.policy import MemoryPolicy
from ...model_patches.stream.step import prefill, step
from ...model_patches.vae.decoder import decode_stream, encode_stream
from ...model_patches.vae.wan import TIME_STRIDE
from ...pocket import motion, world
from ...pocket.models import Pocket
from .quality_figures import Span, adherence, between, judged_streams, speed_figures, stream_speed, strictness
from .quality_truth import rendered
from .records import Rows

GIVEN_LATENTS = 13  # of true past, more than sink and window hold
GIVEN_FRAMES = 1 + TIME_STRIDE * (GIVEN_LATENTS - 1)
STRETCHES_SECONDS = (0.0, 1.5, 3.0)  # where those that are told apart begin, from the end of the true past


def from_truth(
    rows: Rows,
    pocket: Pocket,
    scenes: world.Scenes,
    seconds: int,
    seed: int,
    cache: CacheFormat,
    memory: MemoryPolicy,
    how: Mapping[str, str | float],
) -> None:
    """A row of speed for the true past and each stretch after it, beside the world's speed at that time.

    Then one of both verdicts on what was made. how: what every row says of the streams.
    """
    fps, prompts = pocket.recipe.fps, scenes.prompts()
    past = rendered(scenes, GIVEN_FRAMES, pocket.recipe.size)
    pixels = go_on(pocket, prompts, past, seconds, seed, cache, memory)
    streams = judged_streams(Span(pixels, ()), prompts, fps)
    places = world.simulate(scenes, pixels.shape[1])
    true = [
        motion.speeds(one[:, there], fps) for one, there in zip(places, scenes.colour_BN >= 0, strict=True)
    ]
    seen = [one.speed_EN for one in streams]
    given = (1 - GIVEN_FRAMES) / fps
    for start, following in pairwise((given, *STRETCHES_SECONDS, seconds)):
        if start < (end := min(following, seconds)):
            cut = [[stretch(one, fps, start, end) for one in group] for group in (seen, true)]
            speeds, worlds = ([stream_speed(one) for one in group] for group in cut)
            rows(
                "speed",
                case="true_past" if start < 0 else "from_truth",
                from_seconds=start,
                to_seconds=end,
                **how,
                **speed_figures(speeds, worlds),
            )
    made = [replace(one, frames=one.frames[GIVEN_FRAMES:], seen=one.seen[GIVEN_FRAMES:]) for one in streams]
    old, _ = adherence(Span(pixels[:, GIVEN_FRAMES:], ()), prompts, made)
    rows("quality", case="from_truth", to_seconds=seconds, **how, **old, **strictness(made))


def stretch(speed_EN: Tensor, fps: int, start: float, end: float) -> Tensor:
    """Of a true past and what was made after it: one of the two, from the end of the past, seconds.

    A quarter second that has pictures of both tells of neither.
    """
    if start < 0:
        return speed_EN[: GIVEN_FRAMES - fps // motion.SPANS_PER_SECOND]
    return between(speed_EN[GIVEN_FRAMES:], fps, start, end)


@torch.inference_mode()
def go_on(
    pocket: Pocket,
    prompts: list[str],
    past_BFHWC: Tensor,
    seconds: int,
    seed: int,
    cache: CacheFormat,
    memory: MemoryPolicy,
) -> Tensor:
    """Pictures [B, F, H, W, 3] of the past, as the VAE shows it, and of the seconds made after it."""
    text = torch.cat([pocket.encode(prompt) for prompt in prompts])
    state = pocket.begin(text, pocket.config(seed), cache=cache, memory=memory)
    given = torch.cat([encode_stream(pocket.vae, clip)[0] for clip in past_BFHWC])
    state, parts = prefill(pocket.caller, state, given), [given]
    wanted = GIVEN_LATENTS + seconds * pocket.recipe.fps // TIME_STRIDE
    while state.start_frame < wanted:
        made, state = step(pocket.caller, state)
        parts.append(made)
    latents = torch.cat(parts, 2)[:, :, :wanted]
    return torch.stack([decode_stream(pocket.vae, one[None])[0] for one in latents])
