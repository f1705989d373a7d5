"""Pools of encoded clips: rows of tensors that a training draws its batches from, and adds to as it goes."""

from __future__ import annotations

import os
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

    def save(self, path: Path, held_out: str = "") -> None:
        """Write the tensors whole or not at all, and the fingerprint of the combinations they do not show."""
        partial = path.with_suffix(".partial")
        torch.save({"held_out": held_out, "tensors": self.tensors()}, partial)
        os.replace(partial, path)

    @classmethod
    def load(cls: type[PoolT], path: Path, held_out: str = "") -> PoolT:
        """The pool that `save` wrote.

        held_out: fingerprint of the combinations that it must not show, "" where it may show any. Raises
        ValueError for a pool that was drawn without others, or with all.
        """
        stored = torch.load(path, weights_only=True)
        if isinstance(stored, list):  # written before combinations were held out
            stored = {"held_out": "", "tensors": stored}
        if held_out and stored["held_out"] != held_out:
            drawn = f"without list {stored['held_out']}" if stored["held_out"] else "from all combinations"
            raise ValueError(
                f"the clips of {path} were drawn {drawn}; a training draws them without list {held_out}. "
                f"Leave the file out, or move it away, to have clips drawn."
            )
        return cls(*stored["tensors"])


def draw_pool(draw: Callable[[int], PoolT], count: int, what: str) -> PoolT:
    """So many rows, `AT_A_TIME` a call of `draw`, so that RAM does not grow with the count."""
    pool: PoolT | None = None
    while pool is None or len(pool) < count:
        part = draw(min(AT_A_TIME, count - len(pool or ())))
        pool = part if pool is None else pool.concat(part, count)
        print(f"{len(pool)} of {count} {what} drawn", file=sys.stderr, flush=True)
    return pool
