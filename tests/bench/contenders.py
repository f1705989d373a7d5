"""Who takes part in `bench cache`: a format, the model it runs on, and its bytes at other models' sizes.

To add one, append to CONTENDERS a function that yields names and what makes the contender of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ...model_patches.arch.mla import MlaModel
from ...model_patches.arch.wan import WanModel
from ...model_patches.cache.calibration.allocate import Point
from ...model_patches.cache.calibration.calibrate import Calibration, Goal, calibrate, overall
from ...model_patches.cache.calibration.measure import layer_weights
from ...model_patches.cache.cost import CacheCost, latent_layer_bytes
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.formats import FORMATS, compatible_formats
from ...model_patches.cache.shapes import NO_EXACT, CacheShape, Exact
from ...model_patches.stream.model_caller import ModelCaller
from ...model_patches.stream.step import rollout
from ...pocket import world
from ...pocket.models import Pocket
from .beside import Errors, Tally, beside
from .smoothed import FEW_BITS

DENSE_TOKEN_BYTES = 4  # of a key and a value, per channel, in bfloat16
LEARN_SEED, JUDGE_SEED = 8_000_000, 9_000_000  # scenes of the prompts; training draws from others
FULL_BLOCKS = 4  # after which the window is full and errors are counted
ERROR_STREAMS = 4  # held-out prompts that errors are measured on, side by side


@dataclass(frozen=True)
class Trial:
    """What contenders are made from and measured on."""

    pocket: Pocket
    calibration: Calibration
    blocks: int  # of the streams that errors are measured on
    converted: MlaModel | None = None  # the pocket model with VideoMLA's attention


@dataclass(frozen=True)
class Contender:
    """One format on one model."""

    name: str
    made: CacheFormat
    dit: nn.Module
    cost: Callable[[CacheShape], CacheCost]  # its bytes on a model of that shape


Named = tuple[str, Callable[[], Contender]]


def errors_beside(trial: Trial, contender: Contender) -> Errors:
    """Errors on held-out prompts, over all calls of the blocks behind a full window.

    A model of its own gets the dense model's tokens, layer by layer.
    """
    pocket = trial.pocket
    tally = Tally(pocket.dit, None if contender.dit is pocket.dit else contender.dit)
    scenes = world.sample_scenes(ERROR_STREAMS, torch.Generator().manual_seed(JUDGE_SEED), band_share=0.0)
    text = torch.cat([pocket.encode(prompt) for prompt in scenes.prompts()])
    state = pocket.begin(text, pocket.config(seed=3), cache=beside(contender.made, tally))
    attending = ModelCaller(pocket.dit, attention=tally.attend)
    for block, _ in enumerate(rollout(attending, state, trial.blocks), 1):
        tally.counts = block >= FULL_BLOCKS
    return tally.errors()


def learned(pocket: Pocket, prompts: int, blocks: int) -> Calibration:
    """A calibration on so many prompts, none held out of training, a quarter of them kept aside."""
    draw = torch.Generator().manual_seed(LEARN_SEED)
    scenes = world.sample_scenes(2 * prompts, draw, band_share=0.0, combinations="seen")
    chosen = list(dict.fromkeys(scenes.prompts()))[:prompts]

    def streams(recording: CacheFormat, index: int) -> Iterator[object]:
        state = pocket.begin(pocket.encode(chosen[index]), pocket.config(seed=index), cache=recording)
        yield from rollout(pocket.caller, state, blocks)

    dit, cpu = pocket.dit, torch.device("cpu")
    return calibrate(
        streams,
        chosen,
        lambda layer: layer_weights(dit.blocks[layer], dit.dim, torch.float32, cpu),
        blocks=blocks,
    )


def ready(trial: Trial) -> Iterator[Named]:
    """Formats that need no file, on the model they are for; the rounding ones with an exact sink besides."""
    sink = Exact(sink=trial.pocket.config().positions.sink_frames)
    found: set[str] = set()
    for dit in filter(None, (trial.pocket.dit, trial.converted)):
        for kind in compatible_formats(dit):
            if kind.source is not None or kind.name in found:
                continue
            found.add(kind.name)
            yield kind.name, partial(_made, kind.name, kind.build(dit), dit)
            if kind.rounds and not kind.needs:
                yield f"{kind.name}_sink", partial(_made, f"{kind.name}_sink", kind.build(dit, sink), dit)


def _made(name: str, made: CacheFormat, dit: WanModel) -> Contender:
    return Contender(name, made, dit, lambda shape: made.scaled_cost(shape, dit.dim))


def latents(trial: Trial) -> Iterator[Named]:
    """Latents allocated over layers at a quarter, a sixth, an eighth and a twelfth of the dense bytes; at an
    eighth also with the same rank in all layers, and with frames kept exact."""
    config = trial.pocket.config()
    sink, newest = config.positions.sink_frames, config.block_frames
    for times in (4, 6, 8, 12):
        yield f"latent_{times}x", partial(_latent, trial, f"latent_{times}x", times)
    for name, exact in {"sink": Exact(sink=sink), "newest": Exact(newest=newest)}.items():
        yield f"latent_8x_{name}", partial(_latent, trial, f"latent_8x_{name}", 8, exact=exact)
    yield "latent_8x_uniform", partial(_latent, trial, "latent_8x_uniform", 8, allocated=False)


def uniform(calibration: Calibration, channels: int, times: float) -> list[Point]:
    """The same point for all layers: of those within the budget, the one that held-out prompts like best."""
    fitted, budget = calibration.fitted, DENSE_TOKEN_BYTES * channels / times
    layers, group = len(fitted.layers), fitted.group
    offers = [
        Point(rank, wide, latent_layer_bytes(rank, wide, group), 0.0)
        for rank in range(group, channels + 1, group)
        for wide in range(0, rank + 1, group)
    ]
    most = max(offer.bytes for offer in offers if offer.bytes <= budget)
    near = [[offer] * layers for offer in offers if most - group <= offer.bytes <= budget]
    return min(near, key=lambda points: overall(error.total for error in fitted.errors(points)))


def _latent(
    trial: Trial, name: str, times: float, *, exact: Exact = NO_EXACT, allocated: bool = True
) -> Contender:
    calibration, channels = trial.calibration, trial.pocket.dit.dim
    goal = Goal(token_bytes=DENSE_TOKEN_BYTES * channels / times)
    points = calibration.choose(goal) if allocated else uniform(calibration, channels, times)
    dit = trial.pocket.dit
    return _made(name, FORMATS["latent"].build(dit, exact, calibration.basis(points, {})), dit)


def few_bits(trial: Trial) -> Iterator[Named]:
    """Two and four bits a channel, which no user is offered."""
    for name, made in FEW_BITS.items():
        yield name, partial(_made, name, made, trial.pocket.dit)


CONTENDERS: list[Callable[[Trial], Iterator[Named]]] = [ready, latents, few_bits]
