"""Does the video show what the prompt says, and does it still after ten minutes?

Read from pixels by the detector.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev

import torch
from PIL import Image
from torch import Tensor

from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.formats import FORMATS
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.stream.step import step
from ...model_patches.takes.measures import border_ratio
from ...model_patches.vae.decoder import decode_stream, encode_stream
from ...model_patches.vae.wan import TIME_STRIDE
from ...pocket import detector, world
from ...pocket.choices import build, model_for
from ...pocket.models import Pocket
from .records import Rows
from .remembering import MEMORIES, add_memory_file, remembering

FIRST_SECONDS = 10
MARKS_SECONDS = (60, 600)
REBUILT_SECONDS = 3
SPAN_LATENTS = 8  # judged at a mark: two seconds
WARM_LATENTS = 12  # decoded before them and thrown away, so that the decoder has its past


@dataclass(frozen=True)
class Span:
    """Decoded pictures of all streams [B, F, H, W, 3] and the pixel frames at which blocks begin."""

    pixels_BFHWC: Tensor
    borders: tuple[int, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument(
        "--streams", type=int, help="prompts, each with noise of its own; default 48, quick 4"
    )
    parser.add_argument("--seconds", type=int, help="length of the streams; default 600, quick 12")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    parser.add_argument("--timesteps", type=float, nargs="+", help="other denoising steps, out of 1000")
    parser.add_argument("--first-timesteps", type=float, nargs="+", help="those of a stream's first block")
    parser.add_argument("--shift", type=float, help="another shift of the noise levels")
    parser.add_argument("--cfg", type=float, help="another guidance")
    parser.add_argument("--pictures", type=Path, help="folder for the best and worst frames")
    parser.add_argument("--cache", choices=list(FORMATS), default="dense", help="how the window is kept")
    parser.add_argument("--memory", choices=MEMORIES, default="off", help="how the streams remember")
    add_memory_file(parser)


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when the streams could be made and judged."""
    pocket, cache, memory = _asked_for(chosen)
    recipe = pocket.recipe
    streams, seconds = (
        chosen.streams or (4 if chosen.quick else 48),
        chosen.seconds or (12 if chosen.quick else 600),
    )
    scenes = world.sample_scenes(
        streams, torch.Generator().manual_seed(1_000_000 + chosen.seed), band_share=0.0
    )
    prompts = scenes.prompts()
    truth(rows, scenes, recipe.size, recipe.fps)
    rebuilt(rows, pocket, scenes)
    for name, span in spans(pocket, prompts, seconds, chosen.seed, cache, memory):
        figures, shares = judge(span, prompts)
        sizes = {
            "streams_samples": streams,
            "denoising_steps": len(recipe.timesteps),
            "first_denoising_steps": len(recipe.config().levels(0)),
            "cfg_ratio": recipe.cfg,
        }
        how = {"format": chosen.cache, "memory": memory.name, "weights": recipe.trained}
        rows("quality", case=name, **how, **sizes, **figures)
        if chosen.pictures:
            order = sorted(range(streams), key=shares.__getitem__)
            for kind, few in (("worst", order[:6]), ("best", order[-6:])):
                sheet([span.pixels_BFHWC[i] for i in few], chosen.pictures / f"{kind}_{name}.png")
                print(json.dumps([prompts[i] for i in few]), file=sys.stderr)
    return 0


def _asked_for(chosen: argparse.Namespace) -> tuple[Pocket, CacheFormat, MemoryPolicy]:
    """The model with the recipe that was asked for, how its window is kept, and how it remembers."""
    kind = FORMATS[chosen.cache]
    pocket = model_for(kind, chosen.memory, chosen.weights)
    cache = build(kind, pocket, chosen.weights)
    changed = {name: getattr(chosen, name) for name in ("timesteps", "first_timesteps", "shift", "cfg")}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in changed.items()}
    recipe = replace(pocket.recipe, **{key: value for key, value in given.items() if value})
    pocket, memory = remembering(replace(pocket, recipe=recipe), chosen.memory, chosen.memory_file)
    return pocket, cache, memory


def truth(rows: Rows, scenes: world.Scenes, size: int, fps: int) -> None:
    """The detector's own score on rendered frames of the same prompts."""
    pixels = world.render(scenes, world.simulate(scenes, FIRST_SECONDS * fps)[:, :: fps // 2], size)
    figures, _ = judge(Span(pixels, ()), scenes.prompts())
    rows("quality", case="ground_truth", streams_samples=len(scenes), **figures)


def rebuilt(rows: Rows, pocket: Pocket, scenes: world.Scenes) -> None:
    """What the VAE alone makes of rendered frames: no transformer over it can score higher."""
    frames = 1 + REBUILT_SECONDS * pocket.recipe.fps
    pixels = world.render(scenes, world.simulate(scenes, frames), pocket.recipe.size)
    made = torch.stack(
        [
            decode_stream(pocket.vae, encode_stream(pocket.vae, clip)[0])[0][:: pocket.recipe.fps // 4]
            for clip in pixels
        ]
    )
    figures, _ = judge(Span(made, ()), scenes.prompts())
    rows("quality", case="vae_alone", streams_samples=len(scenes), **figures)


def spans(
    pocket: Pocket,
    prompts: list[str],
    seconds: int,
    seed: int,
    cache: CacheFormat = DENSE,
    memory: MemoryPolicy = OFF,
) -> Iterator[tuple[str, Span]]:
    """The first seconds whole, then two seconds before each mark, all streams made side by side."""
    recipe = pocket.recipe
    text = torch.cat([pocket.encode(prompt) for prompt in prompts])
    state = pocket.begin(text, pocket.config(seed), cache=cache, memory=memory)
    per_second = recipe.fps // TIME_STRIDE
    first = min(FIRST_SECONDS, seconds) * per_second
    ends = {first: 0} | {
        mark * per_second: SPAN_LATENTS + WARM_LATENTS for mark in MARKS_SECONDS if mark <= seconds
    }
    if seconds * per_second not in ends:
        ends[seconds * per_second] = SPAN_LATENTS + WARM_LATENTS
    kept: list[Tensor] = []
    for end, length in ends.items():
        while state.start_frame < end:
            latents, state = step(pocket.caller, state)
            kept.append(latents.half())
            if length:
                kept = kept[-(length // recipe.block_frames + 1) :]
        joined = torch.cat(kept, 2)[:, :, -(length or state.start_frame) :].float()
        skip = WARM_LATENTS if length else 0
        yield (
            f"{end // per_second}_seconds",
            _decoded(pocket, joined, skip, state.start_frame, recipe.block_frames),
        )


@torch.inference_mode()
def _decoded(pocket: Pocket, latents: Tensor, skip: int, end: int, block_frames: int) -> Span:
    pixels = [pocket.vae.decode(one[None])[0][0] for one in latents]
    frames = torch.stack(
        [((p.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0) for p in pixels]
    )
    start = end - latents.shape[2]
    borders = [
        1 + TIME_STRIDE * (t - 1) - (1 + TIME_STRIDE * (skip - 1) if skip else 0)
        for t in range(1, latents.shape[2])
        if (start + t) % block_frames == 0 and t > skip
    ]
    return Span(frames[:, 1 + TIME_STRIDE * (skip - 1) if skip else 0 :], tuple(borders))


def judge(span: Span, prompts: list[str]) -> tuple[dict[str, float], list[float]]:
    """(figures over all streams of one span, adherence of each stream).

    The standard error is that of a mean over streams: differences of few of them say nothing. The first
    stretch reaches to the span's first block border; of a stream's first seconds it is the first block.
    """
    shown, errors, things = [], [], 0
    for pixels, prompt in zip(span.pixels_BFHWC, prompts, strict=True):
        objects, ground = detector.parse_prompt(prompt)
        frames = detector.detect(pixels)
        shown.append([frame.shows(objects, ground) for frame in frames])
        things += sum(frame.ground == ground for frame in frames)
        errors.append(float((pixels.float() - _plain(pixels)).abs().mean()))
    moves = (span.pixels_BFHWC[:, 1:].float() - span.pixels_BFHWC[:, :-1].float()).abs().mean((0, 2, 3, 4))
    shares = [sum(frames) / len(frames) for frames in shown]
    figures = {
        "adherence_share": sum(shares) / len(shares),
        "worst_stream_share": min(shares),
        "perfect_streams_share": sum(share == 1 for share in shares) / len(shares),
        "ground_share": things / (len(prompts) * span.pixels_BFHWC.shape[1]),
        "colour_error_levels": sum(errors) / len(errors),
        "sharpness_levels": float(
            (span.pixels_BFHWC[:, :, 1:].float() - span.pixels_BFHWC[:, :, :-1].float()).abs().mean()
        ),
    }
    if len(shares) > 1:
        figures["adherence_standard_error_share"] = stdev(shares) / len(shares) ** 0.5
    if span.borders:
        figures["discontinuity_ratio"] = border_ratio(moves.numpy(), [b - 1 for b in span.borders])
        first = [share for frames in shown for share in frames[: span.borders[0]]]
        figures["first_stretch_share"] = sum(first) / len(first)
    return figures, shares


def _plain(pixels: Tensor) -> Tensor:
    """Every pixel's nearest plain colour of the world."""
    plain = torch.cat([world.PALETTE, world.GROUNDS])
    return plain[torch.cdist(pixels.reshape(-1, 3).float(), plain).argmin(1)].view(pixels.shape)


def sheet(streams: list[Tensor], path: Path, columns: int = 8, scale: int = 2) -> None:
    """Streams as rows, moments as columns, in one PNG."""
    rows = []
    for pixels in streams:
        moments = torch.linspace(0, len(pixels) - 1, columns).long()
        rows.append(pixels[moments].permute(1, 0, 2, 3).flatten(1, 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = torch.cat(rows)
    picture = picture.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    Image.fromarray(picture.numpy()).save(path)
