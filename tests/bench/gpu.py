"""All that only a GPU can tell, in one command of eight minutes: the most important first, tests last.

Whole streams into a file by cache format, with and without memory; decoders; ComfyUI's own way; kernels;
and whether the kernels' tests pass. What time does not allow is left out, and said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...model_patches.plan.probe import probe
from . import decode, gpu_cases, kernels, vs_core
from .gpu_cases import CASES, MORE, Bench, Case, measure
from .records import Rows

ROOT = Path(__file__).parents[2]
BUDGET_SECONDS = 480.0
# what a part is expected to take on a card; a case is expected to take as long as the longest before it
DECODE_SECONDS, CORE_SECONDS, KERNEL_SECONDS, TEST_SECONDS = 20.0, 150.0, 45.0, 30.0
QUICK_SCALE = 0.0  # a small model is not kept from running
CASE_SECONDS = 40.0  # the first one: weights are drawn, kernels compiled

Part = tuple[str, float, Callable[[], bool]]  # name, seconds it is expected to take, what does it


@dataclass
class Budget:
    """Seconds that are left of a run, and the longest case so far."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    longest: float = 0.0

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.began)

    def allows(self, expected: float) -> bool:
        """Whether so many seconds are left."""
        return expected <= self.left


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--no-tests", action="store_true", help="leave the tests of the kernels out")
    parser.add_argument("--seconds", type=float, default=BUDGET_SECONDS, help="time in all; default 480")
    parser.add_argument(
        "--comfyui", type=Path, help="folder of a ComfyUI, to measure its own way beside ours"
    )
    parser.add_argument("--python", help="the Python that this ComfyUI runs with")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when the kernels' tests pass; 2 without a GPU, where --quick still runs a small model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not chosen.quick:
        print("bench gpu: needs a CUDA GPU; with --quick it runs a small model on the CPU.", file=sys.stderr)
        return 2
    budget, passed = Budget(chosen.seconds), True
    for name, expected, work in parts(chosen, rows, device, budget):
        if budget.allows(expected):
            passed &= work()
        else:
            rows("left_out", case=name, expected_seconds=expected, left_seconds=budget.left)
    rows("result", seconds=chosen.seconds - budget.left, ok=passed)
    return 0 if passed else 1


def parts(chosen: argparse.Namespace, rows: Rows, device: torch.device, budget: Budget) -> Iterator[Part]:
    """Everything that is measured, the most important first."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    rates = probe(device, dtype, Path.cwd())
    rows(
        "probe",
        matmul_tflop_per_seconds=rates.matmul_flops / 1e12,
        copy_gigabytes_per_seconds=rates.bytes_per_second / 1e9,
    )
    bench = Bench(device, gpu_cases.SMALL if chosen.quick else gpu_cases.WAN, rates)
    scale = QUICK_SCALE if chosen.quick else 1.0
    yield from streams(rows, bench, CASES, budget, scale)
    bench.drop()
    yield "decoders", scale * DECODE_SECONDS, lambda: decoders(chosen, rows, device)
    if chosen.comfyui is not None:
        yield "ComfyUI", scale * CORE_SECONDS, lambda: beside_core(chosen, rows)
    yield "kernels", scale * KERNEL_SECONDS, lambda: timed_kernels(chosen, rows)
    yield from streams(rows, bench, MORE, budget, scale)
    bench.drop()
    if not chosen.no_tests:
        yield "tests", scale * TEST_SECONDS, lambda: tested(rows, device, budget.left)


def streams(rows: Rows, bench: Bench, cases: Sequence[Case], budget: Budget, scale: float) -> Iterator[Part]:
    """A part for each case."""

    def measured(case: Case) -> bool:
        began = time.monotonic()
        rows("stream", case=case.name, **measure(bench, case))
        budget.longest = max(budget.longest, time.monotonic() - began)
        return True

    for case in cases:
        yield case.name, scale * (budget.longest or CASE_SECONDS), lambda case=case: measured(case)


def decoders(chosen: argparse.Namespace, rows: Rows, device: torch.device) -> bool:
    """Wan's VAE and a tiny one alone, on a square of about 832x480 pixels."""
    dtype = "float32" if device.type == "cpu" else "bfloat16"
    size, repeats = (32, 1) if chosen.quick else (640, 3)
    options = {"vae": None, "tiny": None, "size": size, "latents": 3, "repeats": repeats}
    options |= {"device": device.type, "dtype": dtype, "quick": chosen.quick}
    return decode.run(argparse.Namespace(**options), rows) == 0


def beside_core(chosen: argparse.Namespace, rows: Rows) -> bool:
    """One clip through ComfyUI's own nodes and through ours."""
    size, latents = ("tiny", 6) if chosen.quick else ("1.3B", 21)
    options = {"comfyui": chosen.comfyui, "python": chosen.python, "threads": None, "quick": chosen.quick}
    options |= {"size": [size], "latents": [latents], "rounds": 1}
    return vs_core.run(argparse.Namespace(**options), rows) == 0


def timed_kernels(chosen: argparse.Namespace, rows: Rows) -> bool:
    """Each kernel beside its reference, which is torch alone, and what the card allows."""
    options = {"op": None, "aot": False, "targets": None, "markdown": False, "quick": chosen.quick}
    return kernels.run(argparse.Namespace(**options), rows) == 0


def tested(rows: Rows, device: torch.device, seconds: float) -> bool:
    """Prints whether the kernels' tests pass here, where nothing of them may be skipped."""
    required = {} if device.type == "cpu" else {"RIVULET_REQUIRE_GPU": "1", "RIVULET_REQUIRE_TRITON": "1"}
    command = [sys.executable, "-I", "-m", "pytest", "-q", str(ROOT / "tests" / "kernels")]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | required,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        # what is not over has not failed
        rows("left_out", case="tests", left_seconds=seconds, why=f"not done after {seconds:.0f} s")
        return True
    ok, said = done.returncode == 0, done.stdout
    if not ok:
        print(said, file=sys.stderr)
    last = (said.strip().splitlines() or ["nothing was said"])[-1]
    rows("tests", ok=ok, why=last, test_seconds=time.perf_counter() - start)
    return ok
