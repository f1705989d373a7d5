"""Pools of encoded clips: rows of tensors that a training draws its batches from, and adds to as it goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .whole_file import write_whole

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

    def save(self, path: Path, made_of: Mapping[str, str]) -> None:
        """Write the tensors, and what the clips are made of.

        `held_out` is the fingerprint of the combinations that they do not show, `latents` the VAE's, `seed`
        that of all clips, where one draw made them.
        """
        write_whole(path, lambda partial: torch.save({**made_of, "tensors": self.tensors()}, partial))

    @classmethod
    def load(cls: type[PoolT], path: Path, made_of: Mapping[str, str] | None = None) -> PoolT:
        """The pool that `save` wrote.

        made_of: what its clips must be made of, None where that is all one. Raises ValueError for others.
        """
        stored = torch.load(path, weights_only=True)
        if isinstance(stored, list):  # written before combinations were held out
            stored = {"held_out": "", "tensors": stored}
        if made_of is not None:
            _refuse_others(path, stored, made_of)
        return cls(*stored["tensors"])


def _refuse_others(path: Path, stored: Mapping[str, Any], made_of: Mapping[str, str]) -> None:
    for name, wanted in made_of.items():
        found = stored.get(name, wanted)
        if found == wanted:
            continue
        if name == "held_out":
            drawn, draws = (f"without list {it}" if it else "from all combinations" for it in (found, wanted))
            why = f"were drawn {drawn}; here they are drawn {draws}"
        elif name == "seed":
            why = f"were drawn with seed {found}; here it is {wanted}"
        else:
            why = f"are latents of VAE {found}; here they are those of {wanted}"
        raise ValueError(
            f"the clips of {path} {why}. Leave the file out, or move it away, to have clips drawn."
        )


def draw_pool(draw: Callable[[int], PoolT], count: int, what: str) -> PoolT:
    """So many rows, `AT_A_TIME` a call of `draw`, so that RAM does not grow with the count."""
    pool: PoolT | None = None
    while pool is None or len(pool) < count:
        part = draw(min(AT_A_TIME, count - len(pool or ())))
        pool = part if pool is None else pool.concat(part, count)
        print(f"{len(pool)} of {count} {what} drawn", file=sys.stderr, flush=True)
    return pool
