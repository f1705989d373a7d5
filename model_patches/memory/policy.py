"""What every way of remembering offers, and the plainest: to forget what leaves the window.

R batch rows, M memory tokens, C channels of the model, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..attention.positions import PositionPreset
from ..attention.sdpa import Attention, sdpa
from ..cache.cost import CacheCost
from ..cache.format import Cache, CacheShape, Call, KeysValues


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory tokens [R, M, C] of one stream between two blocks; None where there are none yet."""

    before: Tensor | None = None  # what the first call of the next block still sees
    now: Tensor | None = None  # what its later calls see, and the next update begins with

    def tensors(self) -> dict[str, Tensor]:
        """What a snapshot must store."""
        if self.before is self.now:
            return {} if self.now is None else {"both": self.now}
        parts = {"before": self.before, "now": self.now}
        return {name: tokens for name, tokens in parts.items() if tokens is not None}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Memory:
        """The memory that gave `tensors`."""
        both = tensors.get("both")
        return Memory(tensors.get("before", both), tensors.get("now", both))


NOTHING = Memory()


def seen(policy: MemoryPolicy, memory: Memory, call: Call) -> tuple[KeysValues | None, KeysValues | None]:
    """What a block's first call, and what its later ones attend to beside the frames.

    Nothing as long as the positions have no ids for it.
    """
    if not call.memory_ids:
        return None, None
    before = None if memory.before is None else policy.read(memory.before)
    if memory.now is memory.before:
        return before, before
    return before, None if memory.now is None else policy.read(memory.now)


class MemoryPolicy(Protocol):
    """How a stream remembers: a value that it is begun with, and taken up again with."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    def tokens(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> int:
        """M for a stream of these sizes.

        Raises ValueError, in the user's words, where sizes, positions or what a cache of this cost keeps of a
        frame are not those it works with.
        """
        ...

    def begin(self, shape: CacheShape) -> Memory:
        """What is remembered before the first block."""
        ...

    def update(
        self, memory: Memory, cache: Cache, left: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        """(memory, cache) once a block is made.

        cache: with the frames `left` still in it, which the next block does not attend to; they are dropped
        afterwards. The value before may be spent.
        """
        ...

    def renewed(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> Memory:
        """What is remembered after the frames of the window were run again under another prompt.

        `frames`: those that left last are among them, and will be given to `update` again.
        """
        ...

    def read(self, tokens: Tensor) -> KeysValues:
        """Keys before RoPE and values [R, M, N, D] of memory tokens, for every layer."""
        ...

    def spec(self) -> Mapping[str, object]:
        """What tells this policy from every other, fit for JSON; a snapshot is taken up by an equal one."""
        ...


def leave(
    policy: MemoryPolicy, memory: Memory, whole: Cache, kept: tuple[int, ...], attention: Attention = sdpa
) -> tuple[Memory, Cache]:
    """(memory, cache) before a block that attends to `kept` alone: other frames are taken in and dropped."""
    left = tuple(frame for frame in whole.frames if frame not in kept)
    memory, cache = policy.update(memory, whole, left, attention)
    return memory, cache.only(kept)


@dataclass(frozen=True, slots=True)
class Off:
    """Sink and window are all there is."""

    name: str = "off"

    def tokens(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> int:
        """None."""
        return 0

    def begin(self, shape: CacheShape) -> Memory:
        """Nothing."""
        return NOTHING

    def update(
        self, memory: Memory, cache: Cache, left: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        """Both as they are."""
        return memory, cache

    def renewed(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> Memory:
        """What was before."""
        return memory

    def read(self, tokens: Tensor) -> KeysValues:
        """Never asked: there are no tokens."""
        raise AssertionError(f"memory {self.name} has no tokens")

    def spec(self) -> Mapping[str, object]:
        """Its name says all."""
        return {"name": self.name}


OFF = Off()
