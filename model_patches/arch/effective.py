"""What a layer computes, found by asking it: adapters, quantised weights and casts are in the answer.

C channels in, K channels out. Layers are never asked for a `.weight`, which may be packed, offloaded, or not
what runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .parts import plain_tensor
from .tree import Layer

PROBE = 256.0  # size of the probe: a power of two, so large that a bias costs the weights no digits
PROBE_ROWS = 1024  # tokens of one call


@torch.no_grad()
def effective_linear(
    layer: Layer, channels: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(weight [C, K], bias [K]) with layer(x) = x @ weight + bias, in float32, or in float64 for float64.

    The layer is asked for plus and minus `PROBE` times each unit vector: their difference has no bias in it,
    and rounding to `dtype` is relative to the weight. Refuses a layer whose answer is not finite.
    """
    wide = torch.promote_types(dtype, torch.float32)
    parts: list[Tensor] = []
    for start in range(0, channels, PROBE_ROWS):
        rows = torch.eye(channels, dtype=dtype, device=device)[None, start : start + PROBE_ROWS] * PROBE
        parts.append((layer(rows).to(wide) - layer(-rows).to(wide))[0] / (2 * PROBE))
    weight_CK = torch.cat(parts)
    bias_K = layer(torch.zeros(1, 1, channels, dtype=dtype, device=device)).to(wide)[0, 0]
    if not (weight_CK.isfinite().all() and bias_K.isfinite().all()):
        raise ValueError(
            f"effective_linear: the layer answers inputs of size {PROBE:.0f} in {dtype} with NaN or infinite "
            f"numbers, so its weights cannot be found; run the model in bfloat16 or float32."
        )
    return weight_CK, bias_K


@torch.no_grad()
def effective_gain(norm: Layer, channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Gain [C] of an RMSNorm over the full width, in float32, or in float64 for float64."""
    wide = torch.promote_types(dtype, torch.float32)
    answer = norm(torch.full((1, 1, channels), PROBE, dtype=dtype, device=device))
    return plain_tensor(answer).to(wide)[0, 0]
