"""Each kernel against its reference and what the card allows; with --aot, what it needs of a card."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import torch

from ...kernels.dispatch import triton_support
from ...model_patches.plan.probe import Device, best_seconds, probe
from .cases import CASES, Case, Work, maker
from .records import Rows

CALLS = 20  # of a kernel in one CUDA graph, so that launching costs nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--op", help="only the kernels of this operation")
    parser.add_argument("--aot", action="store_true", help="compile for cards that are not here, run nothing")
    parser.add_argument("--targets", help="with --aot: sm_86,gfx1201 for instance; default all, quick sm_86")
    parser.add_argument("--markdown", action="store_true", help="with --aot: a table for the documentation")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0, or with --aot 1 where a kernel does not fit a card."""
    cases = [case for case in CASES if chosen.op in (None, case.op)]
    if chosen.aot:
        return compiled(chosen, rows, cases)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = None if device.type == "cpu" else probe(device, torch.bfloat16, Path.cwd())
    if rates is not None:
        tflop, gigabytes = rates.matmul_flops / 1e12, rates.bytes_per_second / 1e9
        rows("probe", matmul_tflop_per_seconds=tflop, copy_gigabytes_per_seconds=gigabytes)
    rows("support", is_triton=triton_support(device).triton, why=triton_support(device).why)
    for case in cases:
        tokens = case.tokens // 6 if chosen.quick else case.tokens
        with torch.inference_mode():
            measured(rows, case, tokens, device, rates)
    return 0


def measured(rows: Rows, case: Case, tokens: int, device: torch.device, rates: Device | None) -> None:
    """Prints what a call must move and multiply, and the time of whatever runs here.

    The floor is the longer of moving each tensor once at the measured rate of a copy and of multiplying at
    the measured rate of a large product.
    """
    work = case.make(maker(device), tokens)
    found: dict[str, float] = {"moved_bytes": work.bytes, "matmul_tflop": work.flop / 1e12}
    found["reference_ms"] = 1e3 * seconds(lambda: work.run("reference"), device)
    if rates is not None:
        floor = max(work.bytes / rates.bytes_per_second, work.flop / rates.matmul_flops)
        found["floor_ms"] = 1e3 * floor
        if triton_support(device).triton:
            kernel = seconds(lambda: work.run("triton"), device)
            found |= {"kernel_ms": 1e3 * kernel, "kernel_to_floor_ratio": kernel / floor}
            found["reference_to_kernel_ratio"] = found["reference_ms"] / found["kernel_ms"]
    rows("kernel", op=case.op, case=case.name, attended_tokens=tokens, **found)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Returns the least time of a call; on a GPU of many in one graph, so that Python's part is left out."""
    if device.type == "cpu":
        return best_seconds(work, device, 0.2)
    work()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            work()
    return best_seconds(graph.replay, device, 0.2) / CALLS


def compiled(chosen: argparse.Namespace, rows: Rows, cases: list[Case]) -> int:
    """Prints what each kernel needs on each target; returns 1 if one does not fit."""
    from . import aot

    default = ["sm_86"] if chosen.quick else list(aot.TARGETS)
    targets = chosen.targets.split(",") if chosen.targets else default
    lines, failed = [aot.heading(targets)], False
    for case, work in distinct(cases, chosen.quick):
        launch = launch_of(work)
        built = {target: aot.build(launch, target) for target in targets}
        for target, needs in built.items():
            fits, limit = aot.fits(needs, target), aot.SPILLS.get(case.op, 0)
            failed |= not fits or needs.spill_bytes > limit
            rows_of = {"shared_bytes": needs.shared_bytes, "spill_bytes": needs.spill_bytes}
            rows_of |= {"registers": needs.registers, "compile_seconds": needs.seconds}
            if not chosen.markdown:
                rows("built", op=case.op, case=case.name, target=target, is_fitting=fits, **rows_of)
        lines.append(aot.line(f"{case.op}, {case.name}", launch, list(built.values())))
    if chosen.markdown:
        print("\n".join(lines), flush=True)
    return int(failed)


def distinct(cases: list[Case], one_each: bool) -> Iterator[tuple[Case, Work]]:
    """Yields the cases whose kernels differ once they are compiled, on tensors without storage.

    one_each: only the first of each kernel.
    """
    seen = set()
    for _, group in groupby(cases, key=lambda case: case.op):
        for case in group:
            work = case.make(maker(torch.device("meta")), case.tokens)
            launch = launch_of(work)
            # an argument that is not given is compiled away
            absent = [name for name, given in launch.arguments.items() if given is None]
            key = (case.op, id(launch.kernel), "" if one_each else f"{launch.constants} {absent}")
            if key not in seen:
                seen.add(key)
                yield case, work


def launch_of(work: Work):
    """Returns the call of the Triton kernel."""
    module, name, given = work.launch
    return getattr(importlib.import_module(f"...kernels._triton.{module}", __package__), name)(*given)
