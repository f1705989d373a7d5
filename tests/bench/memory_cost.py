"""What does remembering cost? Time of a block and bytes by memory, and whether both stay what they are.

Streams with different memories are made in turns, block by block, so that what else the machine does meets
all alike; only blocks behind a full window count.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from ...model_patches.cache.format import CacheFormat, call_of
from ...model_patches.memory.policies import POLICIES
from ...model_patches.memory.policy import OFF
from ...model_patches.stream.step import step
from ...pocket.ram import resident_bytes
from .memory import settled, slope
from .memory_bytes import state_bytes, whole_size
from .memory_subjects import SUBJECTS, Remembered, pocket
from .memory_work import SIZES, added_shares
from .records import Rows
from .remembering import MEMORIES, add_memory_file
from .soak import NOISE_BYTES
from .stream import ratios

RUN = Path(__file__).resolve().parents[2] / "run.py"
STEADY_BLOCKS = 8  # after which window and ids are full and the memory has been updated more than once
FIRST_BLOCK = 50  # from which on nothing may grow
SAMPLES = 400
SHOWN = 10  # of them, as rows while it runs
NEWEST_BLOCKS = 10  # whose median stands for the time at a block
Clocked = tuple[float, float]  # seconds on the clock, seconds of the processor
Taken = TypeVar("Taken")
# blocks of the long stream, and of --quick; on a card one of the large model may take more than a second
LENGTHS = {"tiny": (100_000, 400), "pocket": (2_000, 80), "1.3B": (120, 80)}
ROUNDS, PAIRS = {"1.3B": 8}, {"1.3B": 20}  # timed blocks of a stream, late blocks beside young ones; by model


@dataclass(frozen=True)
class Sample:
    """What was seen at one place of a long stream."""

    block: int
    resident: int  # bytes of the process
    seconds: float  # of a block, median of the newest
    kept: int  # bytes of the state


class Making:
    """One stream that is being made, the time of its blocks and the highest position id it asked for."""

    def __init__(self, given: Remembered, memory: str, cache: CacheFormat | None = None) -> None:
        self.given = given
        self.state = given.start(memory) if cache is None else given.start(memory, cache)
        self.highest_id = 0

    def step(self) -> float:
        """Makes one block and returns the seconds it took, until the device is done."""
        return self.clocked()[0]

    def clocked(self) -> Clocked:
        """Makes one block; (seconds it took, seconds of the processor in all threads)."""
        config = self.state.config
        call = call_of(config.positions, self.state.start_frame, config.block_frames)
        self.highest_id = max(self.highest_id, *call.ids, *call.query_ids, *call.memory_ids)
        start, worked = time.perf_counter(), time.process_time()
        _, self.state = step(self.given.caller, self.state)
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start, time.process_time() - worked

    @property
    def on_gpu(self) -> bool:
        """Whether the model lies on one; there the processor's time says nothing."""
        return self.given.text_BLE.is_cuda

    def to(self, blocks: int) -> Making:
        """Makes blocks until there are so many."""
        while self.state.block < blocks:
            self.step()
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--size", choices=SUBJECTS, help="model; default pocket for time, tiny for flat")
    parser.add_argument("--rounds", type=int, help="timed blocks of each stream; default 60, 1.3B 8, quick 4")
    parser.add_argument("--blocks", type=int, help="length of the long stream; default by model, 100000 tiny")
    parser.add_argument("--memory", choices=MEMORIES, default="learned", help="of the long stream")
    parser.add_argument("--case", choices=CASES, help="one case alone, without the machine's row")
    add_memory_file(parser)


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when nothing grew; each case has a process of its own, whose memory is its own."""
    if chosen.size == "1.3B" and not torch.cuda.is_available():
        print("bench memory: --size 1.3B needs a CUDA GPU; take pocket or tiny here.", file=sys.stderr)
        return 2
    if chosen.blocks is not None and chosen.blocks <= FIRST_BLOCK:
        raise SystemExit(f"bench memory: --blocks must be over {FIRST_BLOCK}, got {chosen.blocks}")
    if chosen.case:
        return 0 if CASES[chosen.case](chosen, rows) else 1
    given = {name: getattr(chosen, name) for name in ("size", "rounds", "blocks", "memory", "memory_file")}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
    quick = ["--quick"] if chosen.quick else []
    command = [sys.executable, str(RUN), "bench", "memory", *quick, *options]
    ended = [subprocess.run([*command, f"--case={case}"], check=False).returncode for case in CASES]
    return 1 if any(ended) else 0


def timed(chosen: argparse.Namespace, rows: Rows) -> bool:
    """Time of a block with each memory, beside one that forgets, for each cache format."""
    given = _subject(chosen, "pocket")
    rounds = chosen.rounds or (4 if chosen.quick else ROUNDS.get(given.name, 60))
    for name, cache in given.formats().items():
        streams = {memory: Making(given, memory, cache).to(STEADY_BLOCKS) for memory in MEMORIES}
        taken = in_turns({memory: making.clocked for memory, making in streams.items()}, rounds)
        for memory, making in streams.items():
            weights = given.encoder_weights if POLICIES[memory].files else given.weights
            rows(
                "time",
                case="time",
                model=given.name,
                format=name,
                memory=memory,
                weights=weights,
                rounds_samples=rounds,
                **figures(taken[memory], taken[OFF.name], making.on_gpu),
                **state_bytes(making.state),
            )
    return True


def figures(taken: list[Clocked], off: list[Clocked], on_gpu: bool) -> dict[str, float]:
    """Time of a block and its ratio to one without memory, on the clock and, on a processor, in its own time.

    A busy machine stretches the clock's time; with a GPU the processor's says nothing.
    """
    (clock, work), (off_clock, off_work) = zip(*taken, strict=True), zip(*off, strict=True)
    found = beside("block", "to_off", clock, off_clock)
    return found if on_gpu else found | beside("block_cpu", "cpu_to_off", work, off_work)


def beside(one: str, ratio: str, seconds: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Median time, and quartiles of its ratio to another's, pair by pair."""
    pairs = [mine / other for mine, other in zip(seconds, others, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return {
        f"{one}_ms": 1e3 * statistics.median(seconds),
        f"{ratio}_ratio": middle,
        f"lower_quartile_{ratio}_ratio": low,
        f"upper_quartile_{ratio}_ratio": high,
    }


def in_turns(steps: dict[str, Callable[[], Taken]], rounds: int) -> dict[str, list[Taken]]:
    """What each step gave in every round; who goes first changes from round to round."""
    names = list(steps)
    taken: dict[str, list[Taken]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(steps[name]())
    return taken


def flat(chosen: argparse.Namespace, rows: Rows) -> bool:
    """A long stream from block 50 on: time, resident memory and bytes of the state; Ctrl-C ends it sooner."""
    given = _subject(chosen, "tiny")
    blocks = chosen.blocks or LENGTHS[given.name][chosen.quick]
    making = Making(given, chosen.memory).to(FIRST_BLOCK)
    samples: list[Sample] = []
    try:
        watch(making, blocks, rows, samples)
    except KeyboardInterrupt:
        rows("interrupted", case="flat", at_blocks=making.state.block)
    young = Making(given, chosen.memory).to(FIRST_BLOCK)
    pairs = ratios(making.step, young.step, 20 if chosen.quick else PAIRS.get(given.name, 200))
    return verdict(rows, making, samples, pairs)


def watch(making: Making, blocks: int, rows: Rows, samples: list[Sample]) -> None:
    """Makes blocks until there are so many, and takes samples on the way."""
    newest: deque[float] = deque(maxlen=NEWEST_BLOCKS)
    every = max(1, (blocks - FIRST_BLOCK) // SAMPLES)
    while making.state.block < blocks:
        newest.append(making.step())
        block = making.state.block
        if block % every == 0 or block == blocks:
            sizes = state_bytes(making.state)
            sample = Sample(block, resident_bytes(), statistics.median(newest), sum(sizes.values()))
            samples.append(sample)
            if len(samples) % (SAMPLES // SHOWN) == 1:
                rows("sample", case="flat", at_blocks=block, resident_bytes=sample.resident, **sizes)


def verdict(rows: Rows, making: Making, samples: list[Sample], pairs: list[float]) -> bool:
    """Prints the result; returns whether memory is flat and ids are bounded.

    pairs: time of late blocks over young ones. No time decides: what else the machine does is in it.
    """
    at = [sample.block for sample in samples]
    seconds, kept = [sample.seconds for sample in samples], [sample.kept for sample in samples]
    where, resident = settled(at, [sample.resident for sample in samples])
    growth = slope(where, resident) * (where[-1] - where[0])
    low, middle, high = statistics.quantiles(pairs, n=4)
    positions = making.state.config.positions
    bound = math.inf if positions.last_id is None else positions.last_id
    checks = {
        "is_flat": growth <= NOISE_BYTES,
        "is_state_constant": len(set(kept)) == 1,
        "is_bounded": making.highest_id <= bound < positions.trained_frames,
    }
    rows(
        "result", case="flat", model=making.given.name, memory=making.state.policy.name,
        weights=making.given.encoder_weights, preset=positions.name,
        from_blocks=FIRST_BLOCK, blocks=at[-1],
        block_ms=1e3 * statistics.median(seconds), slope_ms_per_1000_blocks=1e6 * slope(at, seconds),
        late_to_young_ratio=middle, lower_quartile_late_to_young_ratio=low,
        upper_quartile_late_to_young_ratio=high,
        growth_bytes_per_1000_blocks=1000 * slope(where, resident), growth_bytes=growth,
        resident_bytes=resident[-1], state_bytes=kept[-1],
        state_growth_bytes_per_1000_blocks=1000 * slope(at, kept),
        highest_id=making.highest_id, **checks, ok=all(checks.values()),
    )  # fmt: skip
    return all(checks.values())


def sizes(chosen: argparse.Namespace, rows: Rows) -> bool:
    """Bytes at Wan 1.3B's sizes: by arithmetic, and of what the engine's own code allocates."""
    found = list(whole_size())
    for name, computed, allocated in found:
        same = computed == allocated
        rows("bytes", case=name, model="1.3B", computed_bytes=computed, allocated_bytes=allocated, ok=same)
    return all(computed == allocated for _, computed, allocated in found)


def _subject(chosen: argparse.Namespace, usual: str) -> Remembered:
    size = chosen.size or usual
    return pocket(chosen.memory_file) if size == "pocket" else SUBJECTS[size]()


def work(chosen: argparse.Namespace, rows: Rows) -> bool:
    """Products that a learned memory adds to a block, computed."""
    for each in SIZES:
        rows("work", is_computed=True, model=each.name, **added_shares(each))
    return True


CASES: dict[str, Callable[[argparse.Namespace, Rows], bool]] = {
    "time": timed,
    "flat": flat,
    "bytes": sizes,
    "work": work,
}
