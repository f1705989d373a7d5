"""A dense cache with a watcher, which receives every write and query; the stream is unchanged.

B rows of a call, L tokens, N heads, D head width, C channels of the model. A watcher is a value like a cache:
each block returns the watcher of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..arch.tree import DiTTree, Layer
from ..attention.past import Past
from ..attention.turning import norm_heads
from .cost import CacheCost
from .dense import DENSE
from .format import Cache, Call, Draft, ForAnyModel
from .shapes import CacheShape, KeysValues, MemorySeen


class CallWatcher(Protocol):
    """Observes one call of some rows, layer by layer: the queries if there are any, the write, the read if
    there is one."""

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, keep: bool) -> None:
        """Observe the call's tokens; arguments as in `attention.past.Past`."""
        ...

    def read(self, layer: int) -> None:
        """Observe that the layer reads its past."""
        ...

    def rotate(self, q_BLND: Tensor, rotated_BLND: Tensor) -> None:
        """Observe the queries of the layer that is written next, before and after RoPE."""
        ...


class BlockWatcher(Protocol):
    """Observes one block, call by call."""

    def past(self, rows: slice) -> CallWatcher:
        """The watcher of calls of these rows."""
        ...

    def set_memory(self, memory: MemorySeen | None) -> None:
        """Observe the memory of the following calls; None for no memory."""
        ...

    def commit(self, frames: tuple[int, ...]) -> Watcher:
        """The watcher of the next block, whose cache has these frames."""
        ...


class Watcher(Protocol):
    """Observes one stream, block by block."""

    def begin(self, call: Call) -> BlockWatcher:
        """The watcher of this block."""
        ...

    def fold(self, pairs: Sequence[tuple[int, int]], share: float) -> Watcher:
        """The watcher after a fold of frames; arguments as in `format.Cache`."""
        ...

    def retain(self, frames: tuple[int, ...]) -> Watcher:
        """The watcher after all but these frames are evicted."""
        ...


Start = Callable[[DiTTree, CacheShape, int, torch.dtype, torch.device], Watcher]  # see `CacheFormat.empty`


@dataclass(frozen=True, slots=True)
class WatchedFormat(ForAnyModel):
    """The format of a stream that is watched from its first block."""

    start: Start
    name: str

    @property
    def cost(self) -> CacheCost:
        return DENSE.cost

    def empty(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> WatchedCache:
        watcher = self.start(model, shape, frames, dtype, device)
        return WatchedCache(DENSE.empty(model, shape, frames, dtype, device), watcher)

    def restore(
        self,
        model: DiTTree,
        shape: CacheShape,
        table: tuple[int, ...],
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> WatchedCache:
        """Raises ValueError: a file has no state of a watcher."""
        raise ValueError(
            f"Cache format {self.name}: a saved stream cannot continue, because its file has no state of the "
            f"watcher; start a new stream."
        )

    def spec(self) -> dict[str, object]:
        return {"name": self.name}


@dataclass(frozen=True, slots=True)
class WatchedCache:
    """A dense cache and its watcher; see `format.Cache`."""

    inner: Cache
    watcher: Watcher

    @property
    def shape(self) -> CacheShape:
        return self.inner.shape

    @property
    def frames(self) -> tuple[int, ...]:
        return self.inner.frames

    @property
    def bytes(self) -> int:
        return self.inner.bytes

    @property
    def table(self) -> tuple[int, ...]:
        return self.inner.table

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def move(self, device: torch.device) -> None:
        """Moves the frames alone: a watcher keeps what it has seen where it saw it."""
        self.inner.move(device)

    def free(self) -> None:
        self.inner.free()

    def begin(self, call: Call) -> WatchedDraft:
        return WatchedDraft(self.inner.begin(call), self.watcher.begin(call))

    def tensors(self) -> Mapping[str, Tensor]:
        return self.inner.tensors()

    def retain(self, frames: tuple[int, ...]) -> WatchedCache:
        return WatchedCache(self.inner.retain(frames), self.watcher.retain(frames))

    def keys_values(self, layer: int, frames: tuple[int, ...]) -> KeysValues:
        return self.inner.keys_values(layer, frames)

    def fold(self, pairs: Sequence[tuple[int, int]], share: float) -> WatchedCache:
        watcher = self.watcher.fold(pairs, share)
        return WatchedCache(self.inner.fold(pairs, share), watcher)


@dataclass(frozen=True, slots=True)
class WatchedDraft:
    """A block and its watcher; see `format.Draft`."""

    inner: Draft
    watcher: BlockWatcher

    def past(self, rows: slice) -> WatchedPast:
        return WatchedPast(self.inner.past(rows), self.watcher.past(rows))

    def set_memory(self, memory: MemorySeen | None) -> None:
        self.inner.set_memory(memory)
        self.watcher.set_memory(memory)

    def commit(self, frames: tuple[int, ...]) -> WatchedCache:
        watcher = self.watcher.commit(frames)
        return WatchedCache(self.inner.commit(frames), watcher)


@dataclass(frozen=True, slots=True)
class WatchedPast:
    """A dense past and its watcher; see `attention.past.Past`."""

    inner: Past
    watcher: CallWatcher

    def write(
        self,
        layer: int,
        x_BLC: Tensor,
        k_BLND: Tensor,
        v_BLND: Tensor,
        *,
        keep: bool = True,
        norm: Layer | None = None,
    ) -> None:
        k_BLND = norm_heads(norm, k_BLND)
        self.inner.write(layer, x_BLC, k_BLND, v_BLND, keep=keep)
        self.watcher.write(layer, x_BLC, k_BLND, v_BLND, keep)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        self.watcher.read(layer)
        return self.inner.read(layer)

    def rotate(self, q_BLND: Tensor, norm: Layer | None = None) -> Tensor:
        q_BLND = norm_heads(norm, q_BLND)
        rotated_BLND = self.inner.rotate(q_BLND)
        self.watcher.rotate(q_BLND, rotated_BLND)
        return rotated_BLND
