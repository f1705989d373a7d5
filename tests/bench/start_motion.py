"""Motion-aware strength against one strength for all blocks, at equal means of noise, on the same noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...model_patches.sampler.denoise import InitLatents
from ...model_patches.sampler.schedule import first_call
from ...model_patches.stream.follow import Follow, encoder_of
from ...model_patches.stream.incoming import Fitted, Pictures
from ...model_patches.stream.motion import MovingStrength
from ...model_patches.stream.step import step
from ...model_patches.vae.decoder import decode_stream
from ...pocket import detector, world
from ...pocket.models import Pocket
from .start_truth import Truth, adherence, share_at

MEANS = (0.85,)  # shares of noise, between two levels of the Pocket Model
STEADY, STOP_AND_GO = "steady", "stop and go"
FIXED, MOVING, SHUFFLED = "fixed", "moving", "shuffled"
PACES = (0, 1, 4)  # halves of the world's own speed, one drawn for each block


@dataclass(frozen=True)
class Clip:
    """An incoming video, what is asked of it, and the latents of its blocks."""

    truth: Truth  # of one stream
    prompt: str
    latents: Sequence[Tensor]  # of each block
    less: list[float]  # off the strength of each block, by how much it moves


Levels = list[list[float]]  # of each stream's blocks


def motion_rows(
    pocket: Pocket, streams: int, blocks: int, means: Sequence[float], less: float, seed: int
) -> Iterator[dict[str, Any]]:
    """A row for each kind of clip, mean, amount of motion and way to spend the mean."""
    for kind in (STOP_AND_GO, STEADY):
        truth = rendered(pocket, streams, blocks, seed, kind)
        clips = list(_clips(pocket, truth, blocks, less, seed))
        for mean in means:
            plain = _judged(pocket, clips, [[mean] * blocks] * streams, seed)
            yield {"case": kind, "mode": FIXED, **_figures([[mean] * blocks] * streams, plain, plain)}
            moving = spend(mean, [clip.less for clip in clips])
            for mode, levels in {MOVING: moving, SHUFFLED: shuffled(moving, seed)}.items():
                made = _judged(pocket, clips, levels, seed)
                yield {"case": kind, "mode": mode, **_figures(levels, made, plain)}


def rendered(pocket: Pocket, streams: int, blocks: int, seed: int, kind: str) -> Truth:
    """Scenes without band for so many blocks, as the world moves them or at a pace for each block."""
    generator = torch.Generator().manual_seed(2_000_000 + seed)
    scenes = world.sample_scenes(streams, generator, band_share=0.0)
    lengths = _pictures(pocket, blocks)
    if kind == STEADY:
        places_BFN2 = world.simulate(scenes, sum(lengths))
    else:
        paces = torch.tensor(PACES)[torch.randint(len(PACES), (streams, blocks), generator=generator)]
        moments_BF = paces.repeat_interleave(torch.tensor(lengths), 1).cumsum(1)
        halved = replace(scenes, velocity_BN2=scenes.velocity_BN2 / 2)
        every = world.simulate(halved, int(moments_BF.max()) + 1)
        places_BFN2 = torch.stack([one[at] for one, at in zip(every, moments_BF, strict=True)])
    return Truth(scenes, world.render(scenes, places_BFN2, pocket.recipe.size), places_BFN2)


def _pictures(pocket: Pocket, blocks: int) -> list[int]:
    """How many pictures each block of a scene stands for."""
    frames = pocket.recipe.block_frames
    return [1 + 4 * (frames - 1)] + [4 * frames] * (blocks - 1)


def spend(mean: float, less: Levels) -> Levels:
    """Levels of that mean over all streams and blocks, each so much under one strength."""
    strength = mean + sum(map(sum, less)) / sum(map(len, less))
    return [[strength - each for each in stream] for stream in less]


def shuffled(levels: Levels, seed: int) -> Levels:
    """The same levels, dealt out to streams and blocks by chance: what varying them does by itself."""
    every = torch.tensor(levels)
    order = torch.randperm(every.numel(), generator=torch.Generator().manual_seed(seed))
    return every.flatten()[order].view_as(every).tolist()


def _clips(pocket: Pocket, truth: Truth, blocks: int, less: float, seed: int) -> Iterator[Clip]:
    """Each stream's video, asked for in other colours and shapes."""
    scenes = world.change_looks(truth.scenes, torch.Generator().manual_seed(3_000_000 + seed))
    config, size = pocket.config(seed), pocket.recipe.size
    for row, prompt in enumerate(scenes.prompts()):
        here = torch.tensor([row])
        one = Truth(truth.scenes.select(here), truth.pixels_BFHWC[here], truth.places_BFN2[here])
        pixels_FHWC = one.pixels_BFHWC[0]
        follow = Follow(Fitted(Pictures(pixels_FHWC), size, size), encoder_of(pocket.vae), config, 1.0)
        found = [follow.block(number, number * config.block_frames) for number in range(blocks)]
        moving = MovingStrength(0.0, less)
        under = [-moving.of_block(shown) for shown in pixels_FHWC.split(_pictures(pocket, blocks))]
        yield Clip(one, prompt, [each.begin.clean_BCTHW for each in found if each is not None], under)


def _judged(pocket: Pocket, clips: Sequence[Clip], levels: Levels, seed: int) -> Tensor:
    """Of each stream: share of objects at the video's places, and of pictures as asked [B, 2]."""
    judged = []
    for row, (clip, of_blocks) in enumerate(zip(clips, levels, strict=True)):
        config = pocket.config(1000 * seed + row)
        state, parts = pocket.begin(pocket.encode(clip.prompt), config), []
        for latents_BCTHW, level in zip(clip.latents, of_blocks, strict=True):
            call = first_call(config.sigmas, level)
            begin = InitLatents(latents_BCTHW, call, max(level, config.sigmas[call]))
            made, state = step(pocket.caller, state, begin=begin)
            parts.append(made)
        pixels_FHWC = decode_stream(pocket.vae, torch.cat(parts, 2))[0]
        followed = share_at([detector.detect(pixels_FHWC)], clip.truth)
        judged.append((followed, adherence(pixels_FHWC[None], [clip.prompt])))
    return torch.tensor(judged, dtype=torch.float64)


def _figures(levels: Levels, made_B2: Tensor, plain_B2: Tensor) -> dict[str, float]:
    """Means over streams, differences from one strength for all, and their standard errors."""
    every = torch.tensor(levels)
    found = {"noise_share": float(every.mean()), "noise_spread_share": float(every.std(correction=0))}
    difference_B2 = made_B2 - plain_B2
    both_B = difference_B2.sum(1)
    found |= dict(zip(("followed_share", "asked_adherence"), made_B2.mean(0).tolist(), strict=True))
    for name, column in zip(("followed", "asked", "both"), (*difference_B2.T, both_B), strict=True):
        found |= {
            f"{name}_gain_share": float(column.mean()),
            f"{name}_gain_error_share": _standard_error(column),
        }
    return found


def _standard_error(column_B: Tensor) -> float:
    return float(column_B.std()) / math.sqrt(len(column_B)) if len(column_B) > 1 else 0.0
