"""Whether arithmetic on a card reads its large tensors in the order in which they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
LARGE = 4096  # numbers of a tensor from which on its order counts
NORMS = (
    aten.rms_norm.default,
    *([aten._fused_rms_norm.default] if hasattr(aten, "_fused_rms_norm") else []),  # older torches have none
    aten.native_layer_norm.default,
    aten.native_group_norm.default,
    aten._softmax.default,
)


def is_strided(func: Any, tensors: Sequence[Tensor]) -> bool:
    """Whether an elementwise operation or a norm, over these tensors, reads one of them out of order."""
    if func in NORMS:
        # it reads whole rows, and copies what does not lie in rows
        return tensors[0].numel() >= LARGE and not tensors[0].is_contiguous()
    # torch calls a copy pointwise; one that brings a tensor into order is what arithmetic needs
    return func is not aten.clone.default and torch.Tag.pointwise in func.tags and is_scattered(tensors)


def is_scattered(tensors: Sequence[Tensor]) -> bool:
    """Whether neighbours in the order of reading are none in memory; one order for all is read as it lies."""
    large = [each for each in tensors if each.numel() >= LARGE and not _is_repeated(each)]
    if len({each.stride() for each in large}) == 1 and all(_is_dense(each) for each in large):
        return False
    return any(each.shape[-1] > 1 and each.stride(-1) != 1 for each in large)


def _is_repeated(tensor: Tensor) -> bool:
    """Whether the same numbers are read again and again, so that there are few of them."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _is_dense(tensor: Tensor) -> bool:
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(order).is_contiguous()
