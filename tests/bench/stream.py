"""Does the thousandth block cost what the twentieth did? Time and memory, window against whole clip."""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from ...model_patches.attention.positions import PositionPreset
from ...model_patches.stream.step import step
from ...pocket.ram import peak_bytes, resident_bytes
from .records import Rows
from .subject import Subject, subject

RUN = Path(__file__).resolve().parents[2] / "run.py"
EARLY_BLOCKS = 20  # the window is full long before
TIMED_BLOCKS = 10  # whose median stands for the time at a block
HURTS_RATIO = 20.0  # how much slower than early a block may become before the whole clip is given up
WHOLE_CLIP = PositionPreset("whole_clip", 0, None, None, trained_frames=1)


class Running:
    """One stream being made, and how long its newest blocks took."""

    def __init__(self, given: Subject, reserve_frames: int = 0) -> None:
        self.given = given
        self.state = given.start(reserve_frames)
        self.blocks = 0
        self.newest_seconds: deque[float] = deque(maxlen=TIMED_BLOCKS)

    def step(self) -> float:
        """Makes one block and returns the seconds it took."""
        start = time.perf_counter()
        _, self.state = step(self.given.caller, self.state)
        self.newest_seconds.append(time.perf_counter() - start)
        self.blocks += 1
        return self.newest_seconds[-1]

    def to(self, blocks: int, end: float = math.inf) -> None:
        """Makes blocks until there are so many, or the clock shows `end` (seconds of perf_counter)."""
        while self.blocks < blocks and time.perf_counter() < end:
            self.step()

    @property
    def block_seconds(self) -> float:
        """Median of the newest blocks."""
        return statistics.median(self.newest_seconds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--blocks", type=int, help="where `late` is; default 5000, quick 200")
    parser.add_argument("--seconds", type=float, help="limit of each case; default 1200, quick 10")
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    parser.add_argument("--case", choices=CASES, help="one case alone, without the machine's row")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when every case could be measured; each has a process of its own, whose memory is its own."""
    if chosen.case:
        CASES[chosen.case](chosen, rows, subject(chosen.weights))
        return 0
    given = {name: getattr(chosen, name) for name in ("blocks", "seconds", "weights")}
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    quick = ["--quick"] if chosen.quick else []
    command = [sys.executable, str(RUN), "bench", "stream", *quick, *options]
    ended = [subprocess.run([*command, f"--case={case}"], check=False).returncode for case in CASES]
    return 1 if any(ended) else 0


def window(chosen: argparse.Namespace, rows: Rows, given: Subject) -> None:
    """The stream as users run it: rows at an early and a late block, then both timed in turns."""
    old, end = Running(given), deadline(chosen)
    old.to(EARLY_BLOCKS)
    early = place(rows, "window", old)
    old.to(late_block(chosen), end)
    late, stopped = place(rows, "window", old), why_stopped(old, late_block(chosen))
    young = Running(given)
    young.to(EARLY_BLOCKS)
    low, middle, high = statistics.quantiles(ratios(old.step, young.step, 20 if chosen.quick else 100), n=4)
    rows(
        "ratio",
        case="window",
        stop=stopped,
        late_blocks=int(late["at_blocks"]),
        time_ratio=middle,
        lower_quartile_time_ratio=low,
        upper_quartile_time_ratio=high,
        resident_growth_bytes=late["resident_bytes"] - early["resident_bytes"],
        peak_growth_bytes=late["peak_bytes"] - early["peak_bytes"],
    )


def whole(chosen: argparse.Namespace, rows: Rows, given: Subject) -> None:
    """A cache that keeps the whole clip, as the host's own sampler does, up to where it hurts.

    It has room for the last block from the start, so its memory is that of a clip of this length.
    """
    end, last_block = deadline(chosen), late_block(chosen)
    running = Running(given.with_preset(WHOLE_CLIP), last_block * given.config.block_frames)
    running.to(EARLY_BLOCKS)
    first = last = place(rows, "whole_clip", running)
    for blocks in milestones(EARLY_BLOCKS):
        running.to(min(blocks, last_block), end)
        last = place(rows, "whole_clip", running) if running.blocks > EARLY_BLOCKS else first
        ratio = last["block_seconds"] / first["block_seconds"]
        if running.blocks == last_block or time.perf_counter() >= end or ratio >= HURTS_RATIO:
            break
    rows(
        "ratio",
        case="whole_clip",
        stop="slow" if ratio >= HURTS_RATIO else why_stopped(running, last_block),
        late_blocks=running.blocks,
        time_ratio=ratio,
        resident_growth_bytes=last["resident_bytes"] - first["resident_bytes"],
        peak_growth_bytes=last["peak_bytes"] - first["peak_bytes"],
    )


CASES: dict[str, Callable[[argparse.Namespace, Rows, Subject], None]] = {
    "window": window,
    "whole_clip": whole,
}


def late_block(chosen: argparse.Namespace) -> int:
    """Returns where the late figures are taken, by which the window has long been full."""
    blocks = chosen.blocks or (200 if chosen.quick else 5000)
    if blocks <= EARLY_BLOCKS:
        raise SystemExit(f"bench stream: --blocks must be over {EARLY_BLOCKS}, got {blocks}")
    return blocks


def deadline(chosen: argparse.Namespace) -> float:
    """Returns when a case stops wherever it is, in seconds of perf_counter."""
    return time.perf_counter() + (chosen.seconds or (10 if chosen.quick else 1200))


def why_stopped(running: Running, last_block: int) -> str:
    """Returns "length" where all blocks were made, else "time"."""
    return "length" if running.blocks >= last_block else "time"


def place(rows: Rows, case: str, running: Running) -> dict[str, float]:
    """Prints and returns what a block costs where the stream is."""
    given = running.given
    figures = {
        "at_blocks": running.blocks,
        "block_seconds": running.block_seconds,
        "cache_bytes": running.state.cache.bytes,
        "resident_bytes": resident_bytes(),
        "peak_bytes": peak_bytes(),
    }
    rows("place", case=case, weights=given.weights, preset=given.preset.name, **figures)
    return figures


def milestones(first: int) -> Iterator[int]:
    """Yields 20, 50, 100, 200, 500, ... for a first one of 20."""
    scale = first // 2
    while True:
        for step_of_ten in (2, 5, 10):
            yield scale * step_of_ten
        scale *= 10


def ratios(late: Callable[[], float], early: Callable[[], float], pairs: int) -> list[float]:
    """Returns time ratios of steps taken in turns, so that what else the machine does meets both alike."""
    found = []
    for pair in range(pairs):
        # who goes first alternates: the second one finds warmer caches
        first, second = (late, early) if pair % 2 else (early, late)
        times = {first: first(), second: second()}
        found.append(times[late] / times[early])
    return found
