"""What every way of remembering offers, and the plainest: to forget what leaves the window.

R batch rows, M memory tokens, C channels of the model, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from ..attention.positions import PositionPreset
from ..attention.sdpa import Attention, sdpa
from ..cache.cost import CacheCost
from ..cache.format import Cache, Call
from ..cache.shapes import CacheShape, KeysValues
from .cost import FREE, MemoryCost

Visible = tuple[KeysValues | None, KeysValues | None]  # to a block's first call, and to its later ones


class Memory(Protocol):
    """What one stream remembers between two blocks: its policy's business, and a value."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What a snapshot must store, and what must be finite."""
        ...


@dataclass(frozen=True, slots=True)
class Nothing:
    """The memory of a policy that holds nothing of its own."""

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}


NOTHING = Nothing()


def visible(policy: MemoryPolicy, memory: Memory, call: Call) -> Visible:
    """What a block's first call, and what its later ones attend to beside the frames.

    Nothing as long as the positions have no ids for it.
    """
    return policy.visible(memory) if call.memory_ids else (None, None)


def room(policy: MemoryPolicy, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> CacheShape:
    """The sizes with the room that the memory needs in a read.

    Raises ValueError where the policy cannot work with these sizes, positions, or a cache of this cost.
    """
    if refusal := policy.why_not(shape, preset, cost):
        raise ValueError(refusal)
    return replace(shape, memory_tokens=policy.cost.tokens)


class MemoryPolicy(Protocol):
    """How a stream remembers: a value that it is begun with, and taken up again with."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def cost(self) -> MemoryCost:
        """What it takes."""
        ...

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        """A sentence for the user if it cannot work with these sizes and positions, or with what a cache of
        this cost keeps of a frame, else None."""
        ...

    def start(self, shape: CacheShape) -> Memory:
        """What is remembered before the first block."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> Memory:
        """The memory of this policy that gave `tensors`."""
        ...

    def visible(self, memory: Memory) -> Visible:
        """What a block's first call, and what its later ones attend to beside the frames."""
        ...

    def update(
        self, memory: Memory, cache: Cache, left: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        """(memory, cache) once a block is made.

        cache: with the frames `left` still in it, which the next block does not attend to; they are dropped
        afterwards. The cache before stays as it was.
        """
        ...

    def recached(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> Memory:
        """What is remembered after the frames of the window were run again under another prompt.

        `frames`: those that left last are among them, and will be given to `update` again.
        """
        ...

    def spec(self) -> Mapping[str, object]:
        """What tells this policy from every other, fit for JSON; a snapshot is taken up by an equal one."""
        ...


def evict(
    policy: MemoryPolicy, memory: Memory, whole: Cache, kept: tuple[int, ...], attention: Attention = sdpa
) -> tuple[Memory, Cache]:
    """(memory, cache) before a block that attends to `kept` alone: other frames are taken in and dropped."""
    left = tuple(frame for frame in whole.frames if frame not in kept)
    memory, cache = policy.update(memory, whole, left, attention)
    return memory, cache.retain(kept)


class Stateless:
    """What a policy answers that holds nothing beside the cache."""

    @property
    def cost(self) -> MemoryCost:
        """Nothing."""
        return FREE

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        """It works with everything."""
        return None

    def start(self, shape: CacheShape) -> Memory:
        """Nothing."""
        return NOTHING

    def restore(self, tensors: Mapping[str, Tensor]) -> Memory:
        """Nothing."""
        return NOTHING

    def visible(self, memory: Memory) -> Visible:
        """Nothing."""
        return None, None

    def recached(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> Memory:
        """What was before."""
        return memory


@dataclass(frozen=True, slots=True)
class Off(Stateless):
    """Sink and window are all there is."""

    name: str = "off"

    def update(
        self, memory: Memory, cache: Cache, left: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        """Both as they are."""
        return memory, cache

    def spec(self) -> Mapping[str, object]:
        """Its name says all."""
        return {"name": self.name}


OFF = Off()
