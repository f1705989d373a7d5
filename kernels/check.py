"""Each Triton kernel against its reference in float64, on the device it is to run on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from .dispatch import disable, is_interpreted, mark_checked, triton_support
from .out_of_memory import is_out_of_memory
from .trials import TRIALS
from .trials.trial import Build, Draw, Sizes, Trial, overflowed

TRUE = Sizes(1, 70, 12, 128, 32, 2)  # Wan 1.3B's heads: what is compiled for these is what a stream runs
ODD = Sizes(2, 7, 3, 10, 6, 2)
SINGLE_TOKEN = Sizes(1, 1, 1, 16, 16, 1)
LARGE = Sizes(1, 4680, 12, 128, 32, 8)  # a block of three latent frames at 832x480
HALVES = (torch.bfloat16, torch.float16)
PRODUCTS = {"latent_write", "rebuild", "segment_attention"}  # float32 is torch's there
REPEATS = 5  # timed calls; the shortest counts


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """What was found of one kernel; `error` and `tolerance` are those of the number that was nearest to it.

    slow: whether torch took less time for a block of Wan 1.3B; None where that was not measured. `why` is a
    sentence for a kernel that is not ok, "" otherwise. Seconds are 0 where nothing was measured.
    """

    name: str
    ok: bool
    slow: bool | None = None
    error: float = 0.0
    tolerance: float = 0.0
    compile_seconds: float = 0.0  # of all first calls, compilation and what a cache of the disk gave back
    run_seconds: float = 0.0  # of the kernel for a block of Wan 1.3B
    reference_seconds: float = 0.0  # of torch for the same
    why: str = ""


def check_kernels(device: torch.device) -> tuple[KernelCheck, ...]:
    """What `check_each` finds of all kernels; () where Triton does not run."""
    return tuple(check_each(device))


def check_each(device: torch.device) -> Iterator[KernelCheck]:
    """One kernel after the other, in each dtype of streams, on true, odd and one-token shapes; then its time.

    A kernel that fails is switched off on this device for the rest of the process. None where Triton does not
    run; `dispatch.triton_support` says why. It takes about as long as compiling each kernel six times. What
    says that the card is full passes.
    """
    if not triton_support(device).triton:
        return
    device = torch.empty(0, device=device).device  # with its index
    for name in TRIALS:
        dtypes = HALVES if name in PRODUCTS else (*HALVES, torch.float32)
        check = _checked(name, device, dtypes, (TRUE, ODD, SINGLE_TOKEN))
        if check.ok and not is_interpreted():
            check = _timed(check, device)
        if not check.ok:
            disable(name, check.why, device)
        for dtype in dtypes:
            mark_checked(name, device, dtype)
        yield check


def quick_check(name: str, device: torch.device, dtype: torch.dtype, choice: str = "triton") -> str:
    """Reason why a kernel is not to be used on the device, "" for none: one shape, one dtype.

    choice: "triton", or "offered" for the host's operation.

    What it compiles is what a stream of Wan 1.3B runs. An operation without trials passes.
    """
    return _checked(name, device, (dtype,), (TRUE,), choice).why if name in TRIALS else ""


@torch.inference_mode()
def _checked(
    name: str,
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    shapes: tuple[Sizes, ...],
    choice: str = "triton",
) -> KernelCheck:
    found = KernelCheck(name, True)
    for dtype in dtypes:
        for sizes in shapes:
            for build in TRIALS[name]:
                case = f"{sizes.rows} x {sizes.tokens} tokens, {sizes.heads} heads of {sizes.width}, {dtype}"
                try:
                    with torch.device("cpu"):  # whatever the default: the truth is computed there
                        found = _judged(found, build(Draw(device), sizes, dtype), case, choice)
                except Exception as error:  # a compiler, a driver or a broken installation: anything
                    if is_out_of_memory(error):
                        raise
                    fault = f"{type(error).__name__}: {error}".splitlines()[0]
                    return replace(found, ok=False, why=f"{case}: {fault}.")
                if not found.ok:
                    return found
    return found


def _judged(found: KernelCheck, trial: Trial, case: str, choice: str) -> KernelCheck:
    start = time.perf_counter()
    outputs = tuple(output.cpu() for output in trial.run(choice))
    found = replace(found, compile_seconds=found.compile_seconds + time.perf_counter() - start)
    if overflowed(trial):
        return replace(found, ok=False, why=f"{case}: it wrote beyond its result.")
    for error, bound in trial.judge(outputs):
        # a NaN is no distance: it compares as too far
        share = (error / bound.clamp(min=torch.finfo(bound.dtype).tiny)).nan_to_num(nan=torch.inf).flatten()
        worst = int(share.argmax())
        far, allowed = float(error.flatten()[worst]), float(bound.flatten()[worst])
        if share[worst] > 1:
            why = f"{case}: a result is {far:.3g} off, {allowed:.3g} is allowed."
            return replace(found, ok=False, error=far, tolerance=allowed, why=why)
        if not found.tolerance or far * found.tolerance > found.error * allowed:
            found = replace(found, error=far, tolerance=allowed)
    return found


@torch.inference_mode()
def _timed(check: KernelCheck, device: torch.device) -> KernelCheck:
    dtype, build = torch.bfloat16, TRIALS[check.name][0]
    kernel, reference = (_seconds(build, device, dtype, impl) for impl in ("triton", "reference"))
    return replace(check, run_seconds=kernel, reference_seconds=reference, slow=kernel > reference)


def _seconds(build: Build, device: torch.device, dtype: torch.dtype, impl: str) -> float:
    with torch.device("cpu"):
        trial = build(Draw(device), LARGE, dtype)
    trial.run(impl)
    return min(_timings(trial, device, impl))


def _timings(trial: Trial, device: torch.device, impl: str) -> Iterator[float]:
    for _ in range(REPEATS):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        trial.run(impl)
        torch.cuda.synchronize(device)
        yield time.perf_counter() - start
