"""The interface of memory policies, and the simplest one: no memory.

R batch rows, M memory tokens, C channels of the model, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from ..attention.positions import PositionPreset, why_no_memory
from ..attention.sdpa import Attention, sdpa
from ..cache.cost import CacheCost
from ..cache.format import Cache, Call
from ..cache.shapes import CacheShape, MemorySeen
from .cost import FREE, MemoryCost

MemoryKeysValues = tuple[MemorySeen | None, MemorySeen | None]  # of a block's first call, of its later ones


class Memory(Protocol):
    """The memory state of one stream between two blocks: a value that only its policy reads."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Tensors for a snapshot; all must be finite."""
        ...


@dataclass(frozen=True, slots=True)
class EmptyMemory:
    """The state of a policy without tensors."""

    def tensors(self) -> dict[str, Tensor]:
        return {}


EMPTY = EmptyMemory()


def read_memory(policy: MemoryPolicy, memory: Memory, call: Call) -> MemoryKeysValues:
    """Keys and values of the memory for a block's first call, and for its later ones.

    None as long as the call has no ids for the memory.
    """
    return policy.read(memory) if call.memory_ids else (None, None)


def add_memory_tokens(
    policy: MemoryPolicy, shape: CacheShape, preset: PositionPreset, block_frames: int, cost: CacheCost
) -> CacheShape:
    """The sizes with the policy's memory tokens in the workspace.

    Raises ValueError if the policy cannot work with these sizes, positions, or a cache of this cost, or if
    blocks of so many latent frames leave no ids for its tokens.
    """
    if refusal := policy.why_not(shape, preset, cost):
        raise ValueError(refusal)
    refuse_no_ids(policy.cost, preset, block_frames)
    return replace(shape, memory_tokens=policy.cost.tokens)


def refuse_no_ids(cost: MemoryCost, preset: PositionPreset, block_frames: int) -> None:
    """ValueError where a memory of this cost has tokens and no block of so many latent frames sees them."""
    if cost.tokens and (refusal := why_no_memory(preset, block_frames)):
        raise ValueError(refusal)


class MemoryPolicy(Protocol):
    """How a stream uses evicted frames: a value, chosen at its start and on resume."""

    @property
    def name(self) -> str:
        """Its name for users."""
        ...

    @property
    def cost(self) -> MemoryCost:
        """Its tokens and bytes."""
        ...

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        """A sentence for the user if it cannot work with these sizes, positions, or a cache of this cost,
        else None."""
        ...

    def start(self, shape: CacheShape) -> Memory:
        """The state before the first block."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], shape: CacheShape) -> Memory:
        """The state with these `tensors`, from a snapshot; ValueError for others than such a state has."""
        ...

    def read(self, memory: Memory) -> MemoryKeysValues:
        """Keys and values of the memory for a block's first call, and for its later ones."""
        ...

    def update(
        self, memory: Memory, cache: Cache, evicted: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        """(memory, cache) before the next block.

        cache: still with the frames `evicted`, which the next block does not attend to; the caller removes
        them afterwards. The given cache stays valid.
        """
        ...

    def recached(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> Memory:
        """The state after the frames of the window were recached with a new prompt.

        frames: include those evicted last, which `update` will get again.
        """
        ...

    def spec(self) -> Mapping[str, object]:
        """Its settings as JSON values; a snapshot resumes only with a policy of equal spec."""
        ...


def evict(
    policy: MemoryPolicy, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
) -> tuple[Memory, Cache]:
    """(memory, cache) with these frames alone; the policy's update gets all others first."""
    evicted = tuple(frame for frame in cache.frames if frame not in frames)
    memory, cache = policy.update(memory, cache, evicted, attention)
    return memory, cache.retain(frames)


class Stateless:
    """The defaults of a policy without tensors."""

    @property
    def cost(self) -> MemoryCost:
        return FREE

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        return None

    def start(self, shape: CacheShape) -> Memory:
        return EMPTY

    def restore(self, tensors: Mapping[str, Tensor], shape: CacheShape) -> Memory:
        if tensors:
            raise ValueError(f"there are tensors {', '.join(sorted(tensors))} of a memory that keeps none")
        return EMPTY

    def read(self, memory: Memory) -> MemoryKeysValues:
        return None, None

    def recached(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> Memory:
        return memory


@dataclass(frozen=True, slots=True)
class Off(Stateless):
    """No memory: attention to sink and window alone."""

    name: str = "off"

    def update(
        self, memory: Memory, cache: Cache, evicted: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        return memory, cache

    def spec(self) -> Mapping[str, object]:
        return {"name": self.name}


OFF = Off()
