"""Pools of encoded clips: rows of tensors that a training draws its batches from, and adds to as it goes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

PoolT = TypeVar("PoolT", bound="Pool")
AT_A_TIME = 16  # clips that are drawn and encoded at once


class Pool:
    """Base of dataclasses whose fields are tensors with a row for each clip."""

    __slots__ = ()
    __dataclass_fields__: dict[str, Any]

    def tensors(self) -> list[Tensor]:
        """The fields in their order."""
        return [getattr(self, name) for name in self.__dataclass_fields__]

    def __len__(self) -> int:
        return len(self.tensors()[0])

    def select(self: PoolT, rows: Tensor) -> PoolT:
        """The clips of these rows."""
        return type(self)(*(tensor[rows] for tensor in self.tensors()))

    def concat(self: PoolT, more: PoolT, limit: int) -> PoolT:
        """Both, the oldest dropped beyond `limit` clips."""
        pairs = zip(self.tensors(), more.tensors(), strict=True)
        return type(self)(*(torch.cat(pair)[-limit:] for pair in pairs))

    def save(self, path: Path) -> None:
        """Write the tensors as a list."""
        torch.save(self.tensors(), path)

    @classmethod
    def load(cls: type[PoolT], path: Path) -> PoolT:
        """The pool that `save` wrote."""
        return cls(*torch.load(path, weights_only=True))


def draw_pool(draw: Callable[[int], PoolT], count: int, what: str) -> PoolT:
    """So many rows, `AT_A_TIME` a call of `draw`, so that RAM does not grow with the count."""
    pool: PoolT | None = None
    while pool is None or len(pool) < count:
        part = draw(min(AT_A_TIME, count - len(pool or ())))
        pool = part if pool is None else pool.concat(part, count)
        print(f"{len(pool)} of {count} {what} drawn", file=sys.stderr, flush=True)
    return pool
