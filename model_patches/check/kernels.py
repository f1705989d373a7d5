"""Triton's kernels: whether they run here, and each against its reference."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...kernels.check import KernelCheck, check_kernels
from ...kernels.dispatch import triton_support
from .finding import BROKEN, OK, SKIPPED, SLOW, Finding

TORCH = "torch does its work for the whole run"


def check_triton(device: torch.device) -> Iterator[Finding]:
    """Triton's verdict, then a finding a kernel."""
    support = triton_support(device)
    why = support.why.rstrip(".")
    if not support.triton:
        if device.type == "cpu":
            yield Finding("Triton", SKIPPED, "kernels are for cards; on the processor torch does it all")
        else:
            yield Finding("Triton", SLOW, f"no kernel in use: {why}", TORCH)
        return
    yield Finding("Triton", OK, why)
    yield from map(_finding, check_kernels(device))


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
