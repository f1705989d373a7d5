"""What each cache format costs and what it loses: bytes, attention, pictures, time."""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanConfig
from ...model_patches.cache.cost import DENSE_COST, CacheCost
from ...model_patches.cache.shapes import CacheShape
from ...model_patches.checkpoints.checkpoint import VIDEO_MLA, open_checkpoint
from ...model_patches.geometry import Geometry
from ...model_patches.stream.model_caller import ModelCaller
from ...model_patches.stream.step import init, step
from ...pocket import world
from ...pocket.models import MLA_FILE, WEIGHTS, Pocket, load_pocket
from .contenders import CONTENDERS, JUDGE_SEED, Contender, Trial, errors_beside, learned
from .quality import spans
from .quality_figures import Span, judge
from .records import Rows
from .stream import ratios

WAN = {
    "wan_1.3b": WanConfig(dim=1536, ffn_dim=8960, num_layers=30),
    "wan_14b": WanConfig(dim=5120, ffn_dim=13824, num_layers=40),
}
PICTURES = {"480p": Geometry(832, 480), "720p": Geometry(1280, 720)}
FRAMES = 21  # latent frames of the totals, as in VideoMLA (arXiv 2605.30351)
FIRST_SECONDS = 2  # that are compared with the dense stream of the same seed
QUICK = ("dense", "int8", "latent_4x", "latent_8x", "mla", "mla-int8")
PARTS = ("bytes", "attention", "video", "time")
WARM_BLOCKS = 5  # of the streams that are timed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument(
        "--formats", nargs="+", help=f"which to measure; default all, quick {' '.join(QUICK)}"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; default all"
    )
    parser.add_argument("--streams", type=int, help="prompts, each with its own noise; default 48, quick 2")
    parser.add_argument("--seconds", type=int, help="length of the streams; default 600, quick 6")
    parser.add_argument("--prompts", type=int, help="to calibrate on; default 24, quick 4")
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    parser.add_argument(
        "--converted",
        type=Path,
        help="the model as `convert-mla` wrote it, for mla rows; default: the one beside the weights",
    )
    parser.add_argument("--out", type=Path, help="draw bytes against error into this PNG")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when every format could be measured."""
    pocket = load_pocket(chosen.weights)
    calibration = learned(pocket, chosen.prompts or (4 if chosen.quick else 24), 6 if chosen.quick else 12)
    beside = (chosen.weights or WEIGHTS) / MLA_FILE
    file = chosen.converted or (beside if beside.exists() else None)
    converted = None
    if file:
        converted = open_checkpoint(file, caller="--converted", kind=VIDEO_MLA).load(torch.float32)
    trial = Trial(pocket, calibration, 6 if chosen.quick else 16, converted)
    makers = dict(named for make in CONTENDERS for named in make(trial))
    unknown = set(chosen.formats or ()) - set(makers)
    if unknown:
        wrong = ", ".join(sorted(unknown))
        raise SystemExit(f"bench cache: no format is called {wrong}; there are {', '.join(makers)}")
    wanted = chosen.formats or (QUICK if chosen.quick else makers)
    dense = makers["dense"]()
    first: Span | None = None
    points: list[dict[str, float | str]] = []
    for name, make in makers.items():
        if name not in (*wanted, dense.name):
            continue
        contender = dense if name == dense.name else make()
        figures = totals(rows, contender) if "bytes" in chosen.parts else {}
        if "attention" in chosen.parts:
            figures |= attention(rows, contender, trial)
        if "video" in chosen.parts:
            seen, made = video(rows, contender, trial, chosen, first)
            first, figures = first or made, figures | seen
        if "time" in chosen.parts:
            figures |= block_time(contender, dense, trial, pairs=4 if chosen.quick else 60)
        rows("format", format=contender.name, weights=pocket.recipe.trained, **figures)
        points.append({"format": contender.name, **figures})
    if chosen.out:
        from .cache_picture import draw

        draw(points, chosen.out)
    return 0


def totals(rows: Rows, contender: Contender) -> dict[str, float]:
    """Computed bytes at real sizes; returns those of a token and layer at Wan 1.3B's width."""
    each: dict[str, float] = {}
    for name, model in WAN.items():
        for picture, geometry in PICTURES.items():
            shape = CacheShape(
                model.num_layers,
                1,
                geometry.grid_height,
                geometry.grid_width,
                model.num_heads,
                model.head_dim,
            )
            cost = contender.cost(shape)
            kept = cost.allocated_bytes(shape, FRAMES, torch.bfloat16)
            beside = cost.workspace_bytes(shape, FRAMES, torch.bfloat16)
            each[name] = kept / (FRAMES * shape.frame_tokens * shape.layers)  # exact frames shared out
            rows(
                "bytes",
                is_computed=True,
                format=contender.name,
                model=name,
                picture=picture,
                bytes_per_token_layer=each[name],
                window_frames=FRAMES,
                kept_bytes=kept,
                workspace_bytes=beside,
                smaller_ratio=DENSE_COST.allocated_bytes(shape, FRAMES, torch.bfloat16) / kept,
                whole_smaller_ratio=_whole(DENSE_COST, shape) / (kept + beside),
            )
    return {"bytes_per_token_layer": each["wan_1.3b"]}


def _whole(cost: CacheCost, shape: CacheShape) -> int:
    sizes = shape, FRAMES, torch.bfloat16
    return cost.allocated_bytes(*sizes) + cost.workspace_bytes(*sizes)


def attention(rows: Rows, contender: Contender, trial: Trial) -> dict[str, float]:
    """Error of attention's output on held-out prompts, layer by layer."""
    errors = errors_beside(trial, contender)
    for layer, (error, heads) in enumerate(zip(errors.layers, errors.heads, strict=True)):
        worst = {"worst_head_error": max(heads)} if heads else {}
        rows("attention", format=contender.name, layer_id=layer, attention_error=error, **worst)
    worst = {"worst_head_error": max(map(max, errors.heads))} if all(errors.heads) else {}
    return {"attention_error": errors.total, "worst_layer_error": max(errors.layers), **worst}


def video(
    rows: Rows, contender: Contender, trial: Trial, chosen: argparse.Namespace, dense: Span | None
) -> tuple[dict[str, float], Span]:
    """What pictures show at each mark, and how near the first seconds are to the dense stream's."""
    count, seconds = (
        chosen.streams or (2 if chosen.quick else 48),
        chosen.seconds or (6 if chosen.quick else 600),
    )
    draw = torch.Generator().manual_seed(JUDGE_SEED + 1)
    prompts = world.sample_scenes(count, draw, band_share=0.0).prompts()
    figures: dict[str, float] = {}
    whole: Span | None = None
    pocket = replace(trial.pocket, dit=contender.dit)
    for name, span in spans(pocket, prompts, seconds, seed=0, cache=contender.made):
        seen, _ = judge(span, prompts, pocket.recipe.fps)
        near = {}
        if whole is None:
            whole = span
            near = {} if dense is None else nearness(pocket, span, dense)
        rows("video", case=name, format=contender.name, streams_samples=count, **near, **seen)
        figures |= near | {"adherence": seen["adherence_share"]}
        figures.setdefault("early_adherence", seen["adherence_share"])
    assert whole is not None
    return figures, whole


def nearness(pocket: Pocket, span: Span, dense: Span) -> dict[str, float]:
    """PSNR of the first seconds of all streams together, and of the stream in the middle; where no pixel
    differs there is none."""
    end = FIRST_SECONDS * pocket.recipe.fps
    one, other = (each.pixels_BFHWC[:, :end].float() for each in (span, dense))
    errors = (one - other).square().mean((1, 2, 3, 4)).tolist()
    found = {"psnr_db": statistics.mean(errors), "median_stream_psnr_db": statistics.median(errors)}
    return {name: 10 * math.log10(255**2 / error) for name, error in found.items() if error}


def block_time(contender: Contender, dense: Contender, trial: Trial, pairs: int) -> dict[str, float]:
    """Time of a block against the dense one, a stream of each in turns."""
    if contender is dense:
        return {}
    pocket = trial.pocket
    text = pocket.encode(world.sample_scenes(1, torch.Generator().manual_seed(JUDGE_SEED)).prompts()[0])
    runners = [Runner(replace(pocket, dit=each.dit), each, text) for each in (contender, dense)]
    for runner in runners:
        for _ in range(WARM_BLOCKS):
            runner()
    low, middle, high = statistics.quantiles(ratios(*runners, pairs), n=4)
    return {"time_ratio": middle, "lower_quartile_time_ratio": low, "upper_quartile_time_ratio": high}


class Runner:
    """A stream that is timed block by block."""

    def __init__(self, pocket: Pocket, contender: Contender, text_BLE: Tensor) -> None:
        self.caller = ModelCaller(contender.dit)
        config = pocket.config(seed=5)
        self.state = init(self.caller, pocket.prompt(text_BLE, config), config, cache=contender.made)

    def __call__(self) -> float:
        """Makes one block and returns the seconds it took."""
        start = time.perf_counter()
        _, self.state = step(self.caller, self.state)
        return time.perf_counter() - start
