"""The parts of a method's row: what it costs, how long a block takes, what its streams show and remember."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean

import torch

from ...model_patches.cache.format import call_of
from ...model_patches.cache.shapes import CacheShape
from ...model_patches.stream.step import step
from ...pocket import world
from ...pocket.choices import Choice
from ...pocket.models import load_pocket
from ...pocket.train_pocket.vae import channels_last
from .field_kept import Values
from .field_methods import BASELINE, find_method
from .memory_cost import Clocked, figures, in_turns
from .memory_subjects import WAN
from .quality import spans
from .quality_figures import judged_streams, stream_speed, strict_shares
from .quality_truth import FIRST_SECONDS, scene_speeds
from .recall import stories, verdicts
from .recall_verdict import Eyes
from .recall_walk import Contestant, Stage
from .subject import PROMPT

STEADY_BLOCKS = 8  # after which the window is full and a memory has been updated more than once
LATE_FRAME = 300  # of a long stream, whose first block's frames are counted
BATCH = 10  # stories side by side; their noise depends on it
DIGITS = 5  # kept of a share or a speed


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    seed: int
    streams: int
    seconds: int
    trials: int
    lengths: tuple[int, ...]  # blocks hidden
    rounds: int  # timed blocks of each stream
    own: bool = False  # stories: the past is of the stream's own making
    stories: Path | None = None

    @property
    def of_streams(self) -> str:
        """The setting of the streams."""
        return f"seed {self.seed}, {self.streams} streams, {self.seconds} s"

    @property
    def of_stories(self) -> str:
        """The setting of the stories."""
        past = ", past of its own" if self.own else ""
        return f"seed {self.seed}, {self.trials} stories{past}"


@dataclass(frozen=True)
class Found:
    """What a part tells of one span."""

    span: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One part of a row."""

    measure: Callable[[Choice, Sizes], Iterable[Found]]
    setting: Callable[[Sizes], str] = lambda sizes: ""
    on_taught: bool = False  # the weights: those that can draw the stories of hiding


def cost(choice: Choice, sizes: Sizes) -> Iterator[Found]:
    """Bytes at Wan 1.3B's sizes and latent frames that a block attends to behind a full window, computed."""
    config = choice.pocket.config()
    call = call_of(config.positions, LATE_FRAME * config.block_frames, config.block_frames)
    shape = CacheShape(WAN.num_layers, 1, 1, 1, WAN.num_heads, WAN.dim // WAN.num_heads)
    token = choice.cache.scaled_cost(shape, choice.pocket.dit.dim).token_bytes(shape, torch.bfloat16)
    frames = len(call.ids) + len(call.memory_ids)
    yield Found(figures={"bytes_per_token_layer": token, "attended_frames": frames})


def timed(choice: Choice, sizes: Sizes) -> Iterator[Found]:
    """Time of a block beside the baseline's, block by block in turns."""
    steps = {"baseline": blocks(find_method(BASELINE).made()), "method": blocks(choice)}
    taken = in_turns(steps, sizes.rounds)
    yield Found(figures=figures(taken["method"], taken["baseline"], on_gpu=False))


def blocks(choice: Choice) -> Callable[[], Clocked]:
    """What makes the next block of a stream behind a full window; (seconds, seconds of the processor)."""
    pocket = choice.pocket
    config = pocket.config()
    state = pocket.begin(pocket.encode(PROMPT), config, cache=choice.cache, memory=choice.memory)
    for _ in range(STEADY_BLOCKS):
        state = step(pocket.caller, state)[1]

    def make() -> Clocked:
        nonlocal state
        start, worked = time.perf_counter(), time.process_time()
        state = step(pocket.caller, state)[1]
        return time.perf_counter() - start, time.process_time() - worked

    return make


def quality(choice: Choice, sizes: Sizes) -> Iterator[Found]:
    """Both verdicts and the speed of each stream; prompts and noise are those of `bench quality --seed`."""
    pocket, fps = choice.pocket, choice.pocket.recipe.fps
    draws = torch.Generator().manual_seed(1_000_000 + sizes.seed)
    scenes = world.sample_scenes(sizes.streams, draws, band_share=0.0)
    truth = rounded(scene_speeds(scenes, FIRST_SECONDS * fps, fps))
    prompts = scenes.prompts()
    for name, span in spans(pocket, prompts, sizes.seconds, sizes.seed, choice.cache, choice.memory):
        judged = judged_streams(span, prompts, fps)
        values = {
            "adherence_share": rounded([fmean(frame.adheres for frame in one.frames) for one in judged]),
            "strict_share": rounded(strict_shares(judged)),
            "speed_sides_per_picture": rounded([stream_speed(one.speed_EN) for one in judged]),
            "truth_sides_per_picture": truth,
        }
        yield Found(name.replace("_", " "), values=values)


def rounded(values: Values) -> Values:
    """The same in few digits."""
    return [None if value is None else round(value, DIGITS) for value in values]


def recall(choice: Choice, sizes: Sizes) -> Iterator[Found]:
    """Whether each story's object came back after each number of hidden blocks; the stories are those of
    `bench recall --seed`."""
    stage, config = staged(sizes), choice.pocket.config()
    window = stage.pocket.config().positions.window_frames or 1
    given = choice.pocket.dit, config.positions, choice.cache, choice.memory, choice.pocket.attention
    contestant = Contestant("", *given)
    for length, trials in verdicts(stage, [contestant])[contestant.name].items():
        told = {
            "recall": [None if each is None else int(each.recalled) for each in trials],
            "strict_recall": [None if each is None else int(each.strict) for each in trials],
        }
        yield Found(f"{length * config.block_frames / window:g}", values=told)


@cache
def staged(sizes: Sizes) -> Stage:
    """What all methods are given: stories, and eyes to read the pictures with."""
    pocket = load_pocket()
    channels_last(pocket.vae)
    told = stories(pocket, sizes.trials, sizes.stories, sizes.seed)
    eyes = Eyes(pocket.vae)
    return Stage(pocket, told, sizes.lengths, BATCH, eyes, sizes.own)


PARTS: dict[str, Part] = {
    "cost": Part(cost),
    "time": Part(timed, lambda sizes: f"{sizes.rounds} rounds"),
    "quality": Part(quality, lambda sizes: sizes.of_streams),
    "recall": Part(recall, lambda sizes: sizes.of_stories, on_taught=True),
}
