"""What snapshots cost a stream: time of a block with one every ten seconds of video, and without, in turns.

Pieces of the same stream are made in the order ABBA, with and without a keeper of snapshots, so that what
else the machine does meets both alike. The file is written in both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import torch

from ...model_patches.arch.mla import MlaModel, MlaSizes
from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.cache.formats import FORMATS
from ...model_patches.geometry import Geometry
from ...model_patches.plan.cards import usable_formats
from ...model_patches.plan.plan import Request, plan_stream
from ...model_patches.stream import snapshot
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import ModelCaller, texts
from ...model_patches.stream.pipeline import Chunk
from ...model_patches.stream.pipeline import run as make
from ...model_patches.stream.snapshot import Captured
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init, step
from ...model_patches.takes import keeper as keeping
from ...model_patches.takes.folder import About, TakeFolder
from ...model_patches.vae.decoder import VaeDecoder
from ...model_patches.writer.protocol import OpenWriter
from ...model_patches.writer.video import Mp4Writer
from ...pocket.choices import Choice, choose
from ...pocket.defaults import PLAIN
from .plan_cards import MODELS, PRESET
from .records import Rows
from .subject import PROMPT

T = TypeVar("T")
EVERY_SECONDS = 10.0  # of video between two snapshots
MOST_SHARE = 0.02  # that they may add to the time of a block
WARM_BLOCKS = 6  # until the window is full
PAIRS, QUICK_PAIRS = 12, 2
# a layer of Wan 2.1 1.3B; at a quarter of 832x480 a block takes less beside its bytes, not more
WIDE = WanConfig(1536, 8960, 2, num_heads=12, text_dim=64)
WIDE_PIXELS, WIDE_FPS, WIDE_WORDS = (416, 240), 16, 64
WIDE_BLOCKS, WIDE_TIMED, WIDE_SNAPSHOTS = 6, 2, 5  # those timed have a full window
TRUE_MODEL, TRUE_PIXELS, TRUE_PRESET = MODELS["1.3B"], (832, 480), PRESET
QUICK_FORMATS = ("dense", "latent")


@dataclass
class Arms:
    """Seconds of each piece with snapshots and of each without, and what a snapshot itself took."""

    blocks: int  # of a piece: it has EVERY_SECONDS of video
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    processor: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    captured: list[float] = field(default_factory=list)  # while no block was made
    written: list[float] = field(default_factory=list)  # beside blocks
    bytes: int = 0
    made: int = 0  # blocks, the warm ones too
    began: tuple[float, float] = (0.0, 0.0)

    @property
    def has_snapshots(self) -> bool:
        """Whether the piece that is being made has them."""
        return self.piece % 4 in (1, 2)

    @property
    def piece(self) -> int:
        """Its number."""
        return (self.made - WARM_BLOCKS) // self.blocks

    def count(self, chunk: Chunk) -> None:
        """Takes in one more block."""
        had = self.has_snapshots
        self.made += 1
        if self.made < WARM_BLOCKS or (self.made - WARM_BLOCKS) % self.blocks:
            return
        now = time.perf_counter(), time.process_time()
        if self.made > WARM_BLOCKS:
            self.seconds[had].append(now[0] - self.began[0])
            self.processor[had].append(now[1] - self.began[1])
        self.began = now

    def added(self, kind: str) -> float:
        """Of a piece without, the median over the pairs."""
        both = getattr(self, kind)
        return statistics.median(one / other - 1 for one, other in zip(both[True], both[False], strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--format", choices=FORMATS, help="one cache format alone")
    parser.add_argument("--wide", action="store_true", help="true widths of Wan 1.3B alone, in two layers")
    parser.add_argument("--bytes", action="store_true", help="sizes of snapshots alone")
    parser.add_argument("--pairs", type=int, help=f"of pieces, an even number; default {PAIRS}")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 where snapshots add at most their share to the processor's time of a block."""
    if chosen.wide:
        return 0 if wide(rows) else 1
    if chosen.bytes or not (chosen.quick or chosen.format):
        sizes(rows)
    if chosen.bytes:
        return 0
    formats = [chosen.format] if chosen.format else list(QUICK_FORMATS if chosen.quick else FORMATS)
    pairs = chosen.pairs or (QUICK_PAIRS if chosen.quick else PAIRS)
    is_good = True
    for name in formats:
        given = choose(name, PLAIN.memory)
        with tempfile.TemporaryDirectory() as folder:
            arms = measured(given, pairs, Path(folder))
        is_good &= told(rows, name, arms)
    return 0 if is_good or chosen.quick else 1


def sizes(rows: Rows) -> None:
    """Prints the bytes of a snapshot in each cache format: of a pocket stream, and of Wan 1.3B by formula."""
    for name in FORMATS:
        given = choose(name, PLAIN.memory)
        pocket = given.pocket
        config = replace(pocket.config(3), sigmas=(1.0,), first_sigmas=())  # bytes hang on none of them
        prompt = pocket.prompt(pocket.encode(PROMPT), config)
        state = init(pocket.caller, prompt, config, cache=given.cache, memory=given.memory)
        while state.start_frame < config.kept_frames:
            _, state = step(pocket.caller, state)
        captured = snapshot.capture(pocket.caller, state, VaeDecoder(pocket.vae))
        with tempfile.TemporaryDirectory() as folder:
            written = snapshot.write(captured, Path(folder, "take.safetensors"))
        rows("bytes", case="pocket", format=name, snapshot_bytes=captured.bytes, file_bytes=written)
    sized = StreamConfig(Geometry(*TRUE_PIXELS), TRUE_PRESET, dtype=torch.bfloat16)
    with torch.device("meta"):
        costs = usable_formats(WanModel(TRUE_MODEL)) + usable_formats(MlaModel(TRUE_MODEL, MlaSizes()))
    for cost in costs:
        planned = plan_stream(Request(TRUE_MODEL, sized, fps=WIDE_FPS, cache=cost))
        size = {"width_pixels": TRUE_PIXELS[0], "height_pixels": TRUE_PIXELS[1], "preset": TRUE_PRESET}
        of = {"is_computed": True, "case": "wan_1.3b", "format": cost.name}
        rows("bytes", **of, **size, snapshot_bytes=planned.snapshot_bytes)


def measured(given: Choice, pairs: int, folder: Path) -> Arms:
    """One stream, in pieces with snapshots and without."""
    pocket, config = given.pocket, given.pocket.config(3)
    prompt = pocket.prompt(pocket.encode(PROMPT), config)
    state = init(pocket.caller, prompt, config, cache=given.cache, memory=given.memory)
    geometry, fps = config.geometry, pocket.recipe.fps
    width, height = geometry.picture_size(pocket.vae.upscale)
    writer = Mp4Writer(folder / "take.mp4", width=width, height=height, fps=fps, threads=1)
    arms = Arms(round(EVERY_SECONDS * fps / (config.block_frames * geometry.time_stride)))
    about = About(0, fps, width, height, 0.0)
    decoder, policy = VaeDecoder(pocket.vae), keeping.Policy(every_seconds=EVERY_SECONDS)
    keeper = keeping.Keeper(pocket.caller, decoder, writer, TakeFolder(writer.path), about, policy)

    def keep(state: StreamState) -> None:
        if arms.has_snapshots:
            keeper.keep(state)

    blocks = WARM_BLOCKS + 2 * pairs * arms.blocks
    with writer, clocked(arms), keeper:
        options = {"blocks": blocks, "keep": keep, "on_chunk": arms.count}
        # the newest state is what a keeper keeps in the end
        keeper.keep(make(pocket.caller, decoder, state, [OpenWriter(writer)], **options))
    return arms


def wide(rows: Rows) -> bool:
    """A layer costs and keeps what one of Wan 1.3B does, so two tell the share of thirty; no pictures."""
    torch.manual_seed(0)
    dit = WanModel(WIDE).eval().requires_grad_(False)
    geometry = Geometry(*WIDE_PIXELS)
    config = StreamConfig(geometry, "infinity_rope", 3, (1.0, 0.9375, 0.8333, 0.625), dtype=torch.float32)
    caller = ModelCaller(dit)
    state = init(caller, texts(torch.randn(1, WIDE_WORDS, WIDE.text_dim)), config)
    block_ms: list[float] = []
    while len(block_ms) < WIDE_BLOCKS:
        began = time.perf_counter()
        _, state = step(caller, state)
        block_ms.append(1000 * (time.perf_counter() - began))
    halves: list[list[float]] = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(WIDE_SNAPSHOTS):
            began = time.perf_counter()
            captured = snapshot.capture(caller, state, None)
            halves[0].append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            snapshot.write(captured, Path(folder, f"{number}.safetensors"))
            halves[1].append(1000 * (time.perf_counter() - began))
    capture_ms, write_ms = map(statistics.median, halves)
    plain_ms = statistics.median(block_ms[-WIDE_TIMED:])
    blocks = EVERY_SECONDS * WIDE_FPS / (config.block_frames * geometry.time_stride)
    share = (capture_ms + write_ms) / (blocks * plain_ms)
    sizes = {"layers": WIDE.num_layers, "width_pixels": WIDE_PIXELS[0], "height_pixels": WIDE_PIXELS[1]}
    cost = {"capture_ms": capture_ms, "write_ms": write_ms, "snapshot_bytes": captured.bytes}
    times = {"every_seconds": EVERY_SECONDS, "plain_block_ms": plain_ms, "itself_share": share}
    rows("wide", format="dense", **sizes, **times, **cost, ok=share <= MOST_SHARE)
    return share <= MOST_SHARE


@contextmanager
def clocked(arms: Arms) -> Iterator[None]:
    """Has the two halves of every snapshot timed."""
    capture, write = keeping.capture_in_any_case, keeping.write

    def timed(kept: list[float], work: Callable[..., T]) -> Callable[..., T]:
        def call(*given: object) -> T:
            began = time.perf_counter()
            made = work(*given)
            kept.append(time.perf_counter() - began)
            return made

        return call

    def writing(captured: Captured, path: Path) -> int:
        arms.bytes = captured.bytes
        return write(captured, path)

    changed = {"capture_in_any_case": timed(arms.captured, capture), "write": timed(arms.written, writing)}
    with patch.multiple(keeping, **changed):
        yield


def told(rows: Rows, name: str, arms: Arms) -> bool:
    """Prints what snapshots cost in this cache format; returns whether it is little enough."""
    both, blocks = arms.seconds, arms.blocks
    block_ms = {had: 1000 * statistics.median(each) / blocks for had, each in both.items()}
    added, worked = arms.added("seconds"), arms.added("processor")
    itself = statistics.median(arms.captured) + statistics.median(arms.written)
    cost = {"added_share": added, "added_processor_share": worked}
    cost |= {"itself_share": itself / statistics.median(both[False]), "snapshot_bytes": arms.bytes}
    cost |= {"capture_ms": 1000 * statistics.median(arms.captured)}
    cost |= {"write_ms": 1000 * statistics.median(arms.written)}
    pieces = {"samples": len(both[True]), "blocks": blocks, "every_seconds": EVERY_SECONDS}
    times = {"plain_block_ms": block_ms[False], "kept_block_ms": block_ms[True]}
    rows("cost", format=name, **pieces, **times, **cost, ok=worked <= MOST_SHARE)
    return worked <= MOST_SHARE
