"""How far a device may be from the numbers in float64, derived and not chosen.

A stream in a dtype of unit roundoff u is off by a sum of rounding errors, each at most u of its number. The
processor, run over the same stream in the same dtype, says how large such a sum is here: amplification by
the layers and by the noise levels is in it. The device does the same operations in another order, so its
deviation is another draw of that sum, unless it rounds more often. It does where libraries keep partial sums
of a product in the dtype (torch.backends.cuda.matmul: allow_bf16_reduced_precision_reduction), one more
rounding, and where fused attention keeps its probabilities in it (Dao et al., arXiv 2205.14135), another: at
most three roundings for one. They would have to agree in sign to triple the sum. The fourth stands for the
difference between two draws, which is small: with the hidden channels of the feed-forward permuted, so that
nothing changes but the order of sums, sixteen draws on a processor lay within 0.98 and 1.03 times its own
deviation (formats dense and mla; float32, bfloat16 and float16).

A format that rounds to codes has more: a number near the edge between two codes gets the other one, and is
off by a whole step. Rounding to codes itself is off by step / sqrt(12) in the mean of squares, so where one
code in twelve goes the other way, that alone is as large as the format's own error. Fewer do; that error, of
the format against one that loses nothing, both in float64, is therefore allowed as well. What it hides is
seen in the formats that lose nothing, and by the test of each kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDINGS = 4


def relative(found: Tensor, true: Tensor) -> float:
    """Norm of the difference over norm of the truth, in float64 on the CPU; NaN for other shapes."""
    if found.shape != true.shape:
        return float("nan")
    found, true = (x.detach().to("cpu", torch.float64) for x in (found, true))
    return float((found - true).norm() / true.norm())


def allowed(processor_error: float, dtype: torch.dtype, format_error: float = 0.0) -> float:
    """The largest deviation of a device, from that of the processor; never less than one rounding.

    format_error: of the cache format, 0 for one that loses nothing.
    """
    return max(ROUNDINGS * max(processor_error, torch.finfo(dtype).eps / 2), format_error)
