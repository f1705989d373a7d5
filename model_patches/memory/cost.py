"""What a memory policy costs: tokens and bytes, for a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..cache.shapes import CacheShape

Bytes = Callable[[CacheShape, torch.dtype], int]  # by (sizes of the cache, compute dtype)


def _zero(shape: CacheShape, dtype: torch.dtype) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class MemoryCost:
    """Tokens and bytes of one policy."""

    tokens: int = 0  # attended to by every call besides the frames; their workspace is in the cache's cost
    device_bytes: Bytes = _zero  # on the device while a stream runs
    snapshot_bytes: Bytes = _zero  # in a snapshot


FREE = MemoryCost()
