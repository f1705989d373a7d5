"""What a memory takes: all that a plan needs to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


def _nothing(rows: int, dtype: torch.dtype) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class MemoryCost:
    """Tokens and bytes of one policy; bytes by (batch rows, compute dtype)."""

    tokens: int = 0  # that every call attends to beside the frames; the room for them is the cache's
    device_bytes: Callable[[int, torch.dtype], int] = _nothing  # on the device while a stream runs
    snapshot_bytes: Callable[[int, torch.dtype], int] = _nothing  # in a snapshot


FREE = MemoryCost()
