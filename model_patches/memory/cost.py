"""What a memory policy costs: tokens and bytes, for a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


def _zero(rows: int, dtype: torch.dtype) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class MemoryCost:
    """Tokens and bytes of one policy; bytes by (batch rows, compute dtype)."""

    tokens: int = 0  # attended to by every call besides the frames; their workspace is in the cache's cost
    device_bytes: Callable[[int, torch.dtype], int] = _zero  # on the device while a stream runs
    snapshot_bytes: Callable[[int, torch.dtype], int] = _zero  # in a snapshot


FREE = MemoryCost()
