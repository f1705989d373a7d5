"""Whether a training multiplies in bfloat16: only where the device does it in hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ..model_patches.check.machine import multiplies_bfloat16


def half_products(device: torch.device, wanted: bool = True) -> AbstractContextManager[object]:
    """Autocast to bfloat16, or nothing: in float32 where the device has no fast bfloat16, or it isn't wanted.

    A processor without it (x86 before AVX-512) takes 30 to 75 times as long for a product as in float32.
    """
    if wanted and _has_fast_bfloat16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return multiplies_bfloat16(device)
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True
