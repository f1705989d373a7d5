"""Triton version of kernels/rope.py: the kernel of norm_rope without its norm."""

from __future__ import annotations

from torch import Tensor

from .norm_rope import launch


def rotate_triton(x_BLND: Tensor, table_L: Tensor, out: Tensor) -> Tensor:
    """See `kernels.rope.rotate`."""
    launch(x_BLND, table_L, out, norm=False).run()
    return out
