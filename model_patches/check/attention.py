"""Which of torch's attention kernels run here, how fast, and how far they are from float64.

B batch, L tokens, N heads, D head width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..attention.measured import chosen, measured_sdpa
from ..attention.sdpa import Attention, sdpa
from .clock import Clock, timed
from .finding import BROKEN, OK, SKIPPED, SLOW, Finding, compared
from .tolerance import ROUNDINGS, relative

FUSED = {"flash": "FLASH_ATTENTION", "cuDNN": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}
KERNELS = {**FUSED, "maths": "MATH"}
HEADS, WIDTH = 12, 128  # of Wan 1.3B
TOKENS = (1560, 3 * 1560)  # a latent frame at 832x480 that attends to a block
PROCESSOR_TOKENS = (96, 288)
ROWS = 24  # queries that float64 is computed for
TIMES = 5
VISIBLE = 0.05  # relative error of attention from which pictures are expected to change (nodes/calibrate.py)
WAY = "update torch; in ComfyUI start with --use-split-cross-attention until then"


@dataclass(frozen=True, slots=True)
class Case:
    """One attention call, the truth of its first rows, and how far rounding takes a result from it."""

    q: Tensor  # [B, L, N, D]
    k: Tensor
    v: Tensor
    true: Tensor  # float64 on the CPU, [B, ROWS, N, D]
    rounding: float  # norm of the expected error over norm of the truth


def case_for(device: torch.device, dtype: torch.dtype) -> Case:
    """Drawn queries, keys and values of true width.

    The error that rounding explains, for an output o = sum p v of scores s: rounding a number x to a dtype of
    unit roundoff u is off by at most u |x|, evenly spread, so by u |x| / sqrt(3) in the mean of squares, and
    independent errors add in squares. Rounded to the dtype are each p, each o and, where a kernel keeps
    them, each s, which moves p by its own share: u^2/3 (sum p^2 v^2 (1 + s^2) + o^2). Sums of n numbers in
    float32, of roundoff e, are off by e sqrt(n) of themselves: n o^2 e^2 for the output's, and for a score's
    sum over D channels D (1 + s^2) e^2 of each p^2 v^2.
    """
    queries, tokens = PROCESSOR_TOKENS if device.type == "cpu" else TOKENS
    generator = torch.Generator().manual_seed(9)
    shapes = ((1, queries, HEADS, WIDTH), *((1, tokens, HEADS, WIDTH),) * 2)
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    rows, keys, values = (x.double().transpose(1, 2) for x in (q[:, :ROWS], k, v))
    scores = rows @ keys.mT / WIDTH**0.5
    p = scores.softmax(-1)
    true, terms = p @ values, (p**2 * (1 + scores**2)) @ values**2
    u, e = (torch.finfo(each).eps / 2 for each in (dtype, torch.float32))
    squares = u**2 / 3 * (terms + true**2) + e**2 * (tokens * true**2 + WIDTH * terms)
    rounding = float(squares.sum().sqrt() / true.norm())
    return Case(q.to(device), k.to(device), v.to(device), true.transpose(1, 2), rounding)


def check_attention(
    device: torch.device, dtype: torch.dtype, clock: Clock, others: Mapping[str, Attention] = {}
) -> Iterator[Finding]:
    """Each kernel by itself, what streams call, and others, such as a host's choice."""
    case, fused = case_for(device, dtype), 0
    for name, backend in KERNELS.items():
        clock.tick()
        finding = _one_kernel(name, backend, case, device)
        fused += name in FUSED and finding.verdict == OK
        yield finding
    name = chosen(case.q.device, dtype, WIDTH)
    yield _judged(f"Attention, as streams call it ({name})", measured_sdpa, case, device)
    for name, attention in others.items():
        clock.tick()
        yield _approximate(_judged(name, attention, case, device))
    if device.type != "cpu" and not fused:
        said = "no fused kernel runs here: scores of all tokens are kept in memory"
        way = "smaller windows and pictures; another torch has others"
        yield Finding("Attention, fused", SLOW, said, way)


def _one_kernel(name: str, backend: str, case: Case, device: torch.device) -> Finding:
    chosen = getattr(SDPBackend, backend, None)
    name = f"Attention, {name}"
    if chosen is None:
        return Finding(name, SKIPPED, f"torch {torch.__version__} does not have it")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(chosen):
            return sdpa(q, k, v)

    with warnings.catch_warnings(record=True) as told:  # torch warns of each reason why a kernel does not run
        warnings.simplefilter("always")
        try:
            attend(case.q, case.k, case.v)
        except RuntimeError as error:
            reasons = [str(each.message).partition(" (Triggered")[0] for each in told] or [str(error)]
            first = [reason.splitlines()[0].rstrip(".") for reason in reasons]
            return Finding(name, SKIPPED, "; ".join(["does not run here", *first]))
    return _judged(name, attend, case, device)


def _judged(name: str, attention: Attention, case: Case, device: torch.device) -> Finding:
    try:
        found = attention(case.q, case.k, case.v)[:, :ROWS]
        seconds = [timed(lambda: attention(case.q, case.k, case.v), device) for _ in range(TIMES)]
    except Exception as error:
        return Finding(name, BROKEN, f"{type(error).__name__}: {error}", WAY)
    figures = {"ms": 1e3 * min(seconds)}
    what = f"{1e3 * min(seconds):.2g} ms, error against float64"
    return compared(name, relative(found, case.true), ROUNDINGS * case.rounding, what, WAY, figures)


def _approximate(finding: Finding) -> Finding:
    """A user may have chosen an attention that rounds on purpose, to int8; that is no fault while unseen."""
    error = finding.figures.get("error")
    if finding.verdict != BROKEN or not isinstance(error, float) or not error <= VISIBLE:
        return finding
    said = f"relative error {error:.2g}, more than the dtype rounds: it computes in fewer bits on purpose"
    return Finding(finding.name, OK, said, "", finding.figures)
