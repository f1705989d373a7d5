"""The verdicts on the truth: rendered scenes as they are and through the VAE, and the bounds taken from them.

B scenes, F pixel frames, N objects, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from ...model_patches.vae.decoder import decode_stream, encode_stream
from ...pocket import lit, lit_reader, motion, world
from ...pocket.models import Pocket
from .quality_figures import Span, adherence, judged_streams, pace, stream_speed, strictness
from .records import Rows

FIRST_SECONDS = 10
REBUILT_SECONDS = 3
AT_ONCE = 8  # scenes that are drawn together


def truth(rows: Rows, pocket: Pocket, scenes: world.Scenes) -> None:
    """The verdicts on rendered frames of the same prompts, in the model's look."""
    fps, upscale = pocket.recipe.fps, pocket.vae.upscale
    render = world.render if upscale == 1 else lit.render
    pixels = as_judged(pocket, rendered(scenes, FIRST_SECONDS * fps, upscale * pocket.recipe.size, render))
    _row(rows, "ground_truth", pixels, scenes.prompts(), fps, every=fps // 2)


def rebuilt(rows: Rows, pocket: Pocket, scenes: world.Scenes) -> None:
    """What the VAE alone makes of rendered frames: no transformer over it can score higher."""
    fps = pocket.recipe.fps
    pixels = rendered(scenes, 1 + REBUILT_SECONDS * fps, pocket.recipe.size)
    _row(rows, "vae_alone", through_vae(pocket, pixels), scenes.prompts(), fps, every=fps // 4)


def _row(rows: Rows, case: str, pixels: Tensor, prompts: Sequence[str], fps: int, every: int) -> None:
    """The detector's figures are of every so many pictures, which tell as much; the stricter ones of all."""
    streams = judged_streams(Span(pixels, ()), prompts, fps)
    few = [replace(one, frames=one.frames[::every], seen=one.seen[::every]) for one in streams]
    old, _ = adherence(Span(pixels[:, ::every], ()), prompts, few)
    rows("quality", case=case, streams_samples=len(prompts), **old, **strictness(streams), **pace(streams))


def rendered(
    scenes: world.Scenes,
    frames: int,
    size: int,
    render: Callable[[world.Scenes, Tensor, int], Tensor] = world.render,
) -> Tensor:
    """Pictures of scenes [B, F, H, W, 3], uint8."""
    clips = [render(some, world.simulate(some, frames), size) for some in _parts(scenes)]
    return torch.cat(clips)


def _parts(scenes: world.Scenes) -> Iterator[world.Scenes]:
    for start in range(0, len(scenes), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        yield replace(scenes, **{each.name: getattr(scenes, each.name)[some] for each in fields(scenes)})


def through_vae(pocket: Pocket, pixels_BFHWC: Tensor) -> Tensor:
    """The same pictures, encoded and decoded, as they are judged."""
    decoded = [decode_stream(pocket.vae, encode_stream(pocket.vae, clip)[0])[0] for clip in pixels_BFHWC]
    return as_judged(pocket, torch.stack(decoded))


def as_judged(pocket: Pocket, pixels_BFHWC: Tensor) -> Tensor:
    """Plain pictures of those in the model's look: what detector and verdict know."""
    if pocket.vae.upscale == 1:
        return pixels_BFHWC
    return torch.stack([lit_reader.flatten(clip) for clip in pixels_BFHWC])


def scene_speeds(scenes: world.Scenes, frames: int, fps: int) -> list[float]:
    """Mean speed of each scene's objects over its first frames, sides of the picture per picture."""
    return [
        stream_speed(motion.speeds(places_FN2[:, there], fps)) or 0.0
        for places_FN2, there in zip(world.simulate(scenes, frames), scenes.colour_BN >= 0, strict=True)
    ]
