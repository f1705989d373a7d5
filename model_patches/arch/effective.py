"""What a layer computes, found by asking it: adapters, quantised weights and casts are in the answer.

C channels in, K channels out. Layers are never asked for a `.weight`, which may be packed, offloaded, or not
what runs.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

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
    return gain_of(norm, torch.full((1, 1, channels), PROBE, dtype=dtype, device=device)).to(wide)


@torch.no_grad()
def gain_of(norm: Layer, probe_11C: Tensor) -> Tensor:
    """Gain [C] of an RMSNorm over the full width, in the dtype it answers in; probe: one token of `PROBE`.

    Exact where the norm's weight is of half precision, for what eps takes from so large a token is lost.
    """
    return plain_tensor(norm(probe_11C))[0, 0]


@torch.no_grad()
def only_scales(norm: Layer, gain_C: Tensor, eps: float) -> bool:
    """Whether an RMSNorm does what torch's own class does with this gain, as those of hosts do.

    Each of another class is asked once, on the gain's device, and the answer waited for: a token of uneven
    numbers has to come out within two roundings of its dtype and the sum's in float32.
    """
    if isinstance(norm, nn.RMSNorm) and type(norm).forward is nn.RMSNorm.forward:
        return True
    if norm not in _answers:
        wide, device = torch.promote_types(gain_C.dtype, torch.float32), gain_C.device
        own = torch.finfo(gain_C.dtype)
        x_C = (torch.arange(len(gain_C), dtype=wide, device=device) * 0.7).sin().to(gain_C.dtype).to(wide)
        want_C = x_C * torch.rsqrt(x_C.square().mean() + eps) * gain_C.to(wide)
        got_C = plain_tensor(norm(x_C.to(gain_C.dtype)[None, None])).to(wide)[0, 0]
        share = 2 * own.eps + (len(gain_C) ** 0.5 + 4) * torch.finfo(wide).eps
        # what eps takes from the gain that was asked for is no fault
        share += eps / PROBE**2
        _answers[norm] = bool(((got_C - want_C).abs() <= share * want_C.abs() + own.tiny * own.eps).all())
    return _answers[norm]


_answers: WeakKeyDictionary[Layer, bool] = WeakKeyDictionary()
