"""Triton's kernels: whether they run here, and each against its reference."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...kernels.check import KernelCheck, check_each
from ...kernels.dispatch import triton_support
from .clock import Clock
from .finding import BROKEN, OK, SKIPPED, SLOW, Finding

TORCH = "torch does its work for the whole run"


def check_triton(device: torch.device, clock: Clock) -> Iterator[Finding]:
    """Triton's verdict, then a finding a kernel; time is asked for after each."""
    support = triton_support(device)
    why = support.why.rstrip(".")
    if not support.triton:
        if device.type == "cpu":
            yield Finding("Triton", SKIPPED, "kernels are for cards; on the processor torch does it all")
        else:
            yield Finding("Triton", SLOW, f"no kernel in use: {why}", TORCH)
        return
    yield Finding("Triton", OK, why)
    for check in check_each(device):
        yield _finding(check)
        clock.tick()


def _finding(check: KernelCheck) -> Finding:
    name = f"Kernel {check.name}"
    figures = {
        "error": check.error,
        "tolerance": check.tolerance,
        "compile_seconds": check.compile_seconds,
        "run_seconds": check.run_seconds,
        "reference_seconds": check.reference_seconds,
    }
    if not check.ok:
        return Finding(name, BROKEN, check.why.rstrip("."), TORCH, figures)
    said = (
        f"error {check.error:.2g}, at most {check.tolerance:.2g}; first calls {check.compile_seconds:.1f} s, "
        f"a block {1e3 * check.run_seconds:.2g} ms, torch {1e3 * check.reference_seconds:.2g} ms"
    )
    if check.slow:
        return Finding(name, SLOW, said, "RIVULET_DISABLE_TRITON=1 leaves all of them to torch", figures)
    return Finding(name, OK, said, figures=figures)
