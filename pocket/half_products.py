"""Where products are made in bfloat16: not on a processor that has no such units."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def half_products(device: torch.device, wanted: bool = True) -> AbstractContextManager[object]:
    """Autocast to bfloat16, or nothing: where it isn't wanted, or a processor is slow at it.

    One without it (x86 before AVX-512) takes 30 to 75 times as long for a product as in float32.
    """
    if wanted and _has_fast_bfloat16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def product_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, for a model that only reads pictures; float32 on a processor that is slow at it."""
    return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
