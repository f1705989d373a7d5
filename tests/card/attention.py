"""Which of torch's attention kernels take a call on a card, by the conditions torch checks."""

from __future__ import annotations

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
FLASH_WIDTH = 256  # most channels of a head that the flash kernel takes


def backend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> str:
    """ "flash" or "efficient"; AssertionError where only the maths backend is left.

    That one writes all scores of all heads at once, and a copy of them. q [B, N, L, D], k and v of one device
    and dtype.
    """
    parts = q, k, v
    assert len({each.device for each in parts}) == 1, [str(each.device) for each in parts]
    assert len({each.dtype for each in parts}) == 1, [str(each.dtype) for each in parts]
    what = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)} of {q.dtype}"
    strides = [each.stride(-1) for each in parts]
    assert strides == [1, 1, 1], f"{what}: the last strides are {strides}, a fused kernel needs 1"
    widths = {each.shape[-1] for each in parts}
    assert not any(width * q.element_size() % 16 for width in widths), (
        f"{what}: heads of {sorted(widths)} channels are no multiple of 16 bytes, as a fused kernel needs"
    )
    assert q.dtype in (*HALF, torch.float32), f"{what}: no fused kernel computes in {q.dtype}"
    flash = q.dtype in HALF and len(widths) == 1 and q.shape[-1] <= FLASH_WIDTH and mask is None
    return "flash" if flash else "efficient"
