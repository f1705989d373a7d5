"""Does the video show what the prompt says, and does it still after ten minutes?

Read from pixels by the detector.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.formats import FORMATS
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.stream.step import step
from ...model_patches.vae.wan import TIME_STRIDE
from ...pocket import held_out, world
from ...pocket.choices import Choice, build, model_for, with_look
from ...pocket.defaults import FLAT, LIT, LOOKS
from ...pocket.models import Pocket
from .quality_bounds import bounds
from .quality_figures import (
    Span,
    adherence,
    between,
    judged_streams,
    pace,
    speed_figures,
    stream_speed,
    strictness,
)
from .quality_from_truth import from_truth
from .quality_plot import Row, draw, read
from .quality_sheets import sheets
from .quality_truth import FIRST_SECONDS, as_judged, rebuilt, scene_speeds, truth
from .records import Rows
from .remembering import MEMORIES, add_memory_file, remembering

MARKS_SECONDS = (60, 600)
SPAN_LATENTS = 8  # judged at a mark: two seconds
COMBINATIONS_HELP = "which prompts: those that training draws (seen), those it never does, or all"
FROM_TRUTH_HELP = "streams that go on from a true past: how long do they keep its speed?"
LOOK_HELP = f"how latents are drawn: {FLAT}, or {LIT}, which is read back into {FLAT} pictures to be judged"
BOUNDS_HELP = "the stricter verdict's bounds, what they are taken from, and how much of the truth passes"
WARM_LATENTS = 12  # decoded before them and thrown away, so that the decoder has its past


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
    parser.add_argument("--pictures", type=Path, help="folder for the best, middle and worst streams")
    parser.add_argument("--cache", choices=list(FORMATS), default="dense", help="how the window is kept")
    parser.add_argument("--memory", choices=MEMORIES, default="off", help="how the streams remember")
    parser.add_argument("--combinations", choices=held_out.CHOICES, default="all", help=COMBINATIONS_HELP)
    parser.add_argument("--look", choices=LOOKS, default=FLAT, help=LOOK_HELP)
    parser.add_argument("--streams-only", action="store_true", help="leave out the rows of the truth")
    parser.add_argument("--from-truth", action="store_true", help=FROM_TRUTH_HELP)
    parser.add_argument("--bounds", action="store_true", help=BOUNDS_HELP)
    parser.add_argument("--plot", type=Path, help="draw speed over time into this PNG")
    parser.add_argument("--rows", type=Path, nargs="+", help="rows of earlier runs: draw their speed alone")
    add_memory_file(parser)


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when the streams could be made and judged."""
    if chosen.rows:
        _plot(lambda: read(chosen.rows), chosen.plot or Path("docs/speed.png"))
        return 0
    _refuse_options(chosen)
    asked = _asked_for(chosen)
    pocket, recipe = asked.pocket, asked.pocket.recipe
    if chosen.bounds:
        bounds(rows, pocket, chosen.quick)
        return 0
    streams = chosen.streams or (4 if chosen.quick else 48)
    short, usual = (4, 6) if chosen.from_truth else (12, 600)
    seconds = chosen.seconds or (short if chosen.quick else usual)
    draws = torch.Generator().manual_seed(1_000_000 + chosen.seed)
    scenes = world.sample_scenes(streams, draws, band_share=0.0, combinations=chosen.combinations)
    how = {
        "streams_samples": streams,
        "denoising_steps": len(recipe.timesteps),
        "first_denoising_steps": len(recipe.config().levels(0)),
        "cfg_ratio": recipe.cfg,
        "format": chosen.cache,
        "memory": asked.memory.name,
        "look": asked.look,
        "combinations": chosen.combinations,
        "weights": recipe.trained,
        "held_out": str(recipe.history),
    }
    if not chosen.streams_only:
        truth(rows, pocket, scenes)
        rebuilt(rows, pocket, scenes)
    if chosen.from_truth:
        curve = from_truth(rows, asked, scenes, seconds, chosen.seed, how)
    else:
        curve = _from_nothing(rows, asked, scenes, seconds, chosen, how)
    if chosen.plot:
        _plot(lambda: curve, chosen.plot)
    return 0


def _refuse_options(chosen: argparse.Namespace) -> None:
    for name in ("streams", "seconds"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            raise SystemExit(f"bench quality: --{name} is {value}; give 1 or more, or leave it out.")
    if chosen.look != FLAT and (chosen.from_truth or chosen.bounds):
        raise SystemExit(
            f"bench quality: --from-truth and --bounds are about {FLAT} pictures; leave out --look."
        )
    if chosen.pictures and (chosen.from_truth or chosen.bounds):
        raise SystemExit(
            "bench quality: --pictures shows streams that begin with nothing; leave out --from-truth and "
            "--bounds, or --pictures."
        )


def _plot(rows: Callable[[], list[Row]], path: Path) -> None:
    try:
        draw(rows(), path)
    except (ValueError, OSError) as error:
        raise SystemExit(f"bench quality: no plot: {error}") from error


def _from_nothing(
    rows: Rows,
    asked: Choice,
    scenes: world.Scenes,
    seconds: int,
    chosen: argparse.Namespace,
    how: Mapping[str, str | float],
) -> list[Row]:
    """Rows of both verdicts for each span of streams, and of their speed second by second.

    how: what every row says of the streams. Returns the rows of speed.
    """
    fps, prompts = asked.pocket.recipe.fps, scenes.prompts()
    curve: list[Row] = []
    speeds = scene_speeds(scenes, FIRST_SECONDS * fps, fps)
    for name, span in spans(asked.pocket, prompts, seconds, chosen.seed, asked.cache, asked.memory):
        judged = judged_streams(span, prompts, fps)
        old, _ = adherence(span, prompts, judged)
        rows("quality", case=name, **how, **old, **strictness(judged, span.borders), **pace(judged, speeds))
        for second in range(span.pixels_BFHWC.shape[1] // fps):
            cut = [stream_speed(between(one.speed_EN, fps, second, second + 1)) for one in judged]
            if figures := speed_figures(cut, speeds):
                at = {"from_seconds": span.start + second, "to_seconds": span.start + second + 1}
                curve.append({"case": name, **at, **how, **figures})
                rows("speed", **curve[-1])
        if chosen.pictures:
            sheets(chosen.pictures, name, span, prompts, judged)
    return curve


def _asked_for(chosen: argparse.Namespace) -> Choice:
    """The model with the recipe that was asked for, how its window is kept, and how it remembers."""
    kind = FORMATS[chosen.cache]
    pocket = model_for(kind, chosen.memory, chosen.weights)
    cache = build(kind, pocket, chosen.weights)
    changed = {name: getattr(chosen, name) for name in ("timesteps", "first_timesteps", "shift", "cfg")}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in changed.items()}
    recipe = replace(pocket.recipe, **{key: value for key, value in given.items() if value})
    pocket = with_look(pocket, chosen.look, chosen.weights)
    pocket, memory = remembering(replace(pocket, recipe=recipe), chosen.memory, chosen.memory_file)
    return Choice(pocket, cache, memory)


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
    shown = frames[:, 1 + TIME_STRIDE * (skip - 1) if skip else 0 :]
    begins = (start + skip) * TIME_STRIDE // pocket.recipe.fps
    return Span(as_judged(pocket, shown), tuple(borders), begins, shown)
