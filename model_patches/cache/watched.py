"""A dense cache that is watched: a stream makes what it makes without, and a watcher sees what passes.

B rows of a call, L tokens, N heads, D head width, C channels of the model. A watcher is a value as a cache
is: each block ends with the watcher of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..arch.tree import DiTTree
from ..attention.past import Past
from .cost import CacheCost
from .dense import DENSE
from .format import Cache, Call, Draft, ForAnyModel
from .shapes import CacheShape, KeysValues


class CallWatcher(Protocol):
    """Sees one call of some rows, layer by layer: the write, the read if there is one, the queries."""

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, keep: bool) -> None:
        """See what the call brings; arguments as in `attention.past.Past`."""
        ...

    def read(self, layer: int) -> None:
        """See that the layer reads its past."""
        ...

    def rotate(self, q_BLND: Tensor, rotated_BLND: Tensor) -> None:
        """See the queries, before and after RoPE."""
        ...


class BlockWatcher(Protocol):
    """Sees one block, call by call."""

    def past(self, rows: slice) -> CallWatcher:
        """What sees the calls of these rows."""
        ...

    def show(self, memory: KeysValues | None) -> None:
        """See what every layer attends to besides from here on."""
        ...

    def commit(self, kept: tuple[int, ...]) -> Watcher:
        """What sees the next block, whose cache has these frames."""
        ...


class Watcher(Protocol):
    """Sees one stream, block by block."""

    def begin(self, call: Call) -> BlockWatcher:
        """What sees the block of this call."""
        ...

    def folded(self, pairs: Sequence[tuple[int, int]], share: float) -> Watcher:
        """What sees the stream once frames have taken in others; arguments as in `format.Cache`."""
        ...

    def only(self, kept: tuple[int, ...]) -> Watcher:
        """What sees the stream once it has forgotten all but these frames."""
        ...


Start = Callable[[DiTTree, CacheShape, int, torch.dtype, torch.device], Watcher]  # see `CacheFormat.empty`


@dataclass(frozen=True, slots=True)
class WatchedFormat(ForAnyModel):
    """The format of a stream that is watched from its first block on."""

    start: Start
    name: str

    @property
    def cost(self) -> CacheCost:
        """Of the dense cache that is watched."""
        return DENSE.cost

    def empty(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> WatchedCache:
        """A dense cache with nothing in it, and its watcher."""
        watcher = self.start(model, shape, frames, dtype, device)
        return WatchedCache(DENSE.empty(model, shape, frames, dtype, device), watcher)

    def restored(
        self,
        model: DiTTree,
        shape: CacheShape,
        table: tuple[int, ...],
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> WatchedCache:
        """Refuse: a file has nothing of what a watcher saw."""
        raise ValueError(
            f"Cache format {self.name}: a saved stream cannot be gone on with, since what was watched before "
            f"is not in its file; begin a new one."
        )

    def spec(self) -> dict[str, object]:
        """Its name says all."""
        return {"name": self.name}


@dataclass(frozen=True, slots=True)
class WatchedCache:
    """A dense cache and its watcher; see `format.Cache`."""

    inner: Cache
    watcher: Watcher

    @property
    def shape(self) -> CacheShape:
        """The sizes it was made for."""
        return self.inner.shape

    @property
    def frames(self) -> tuple[int, ...]:
        """Latent frames it holds, rising."""
        return self.inner.frames

    @property
    def bytes(self) -> int:
        """Bytes of its frames, the watcher's not."""
        return self.inner.bytes

    @property
    def table(self) -> tuple[int, ...]:
        """Latent frame in each slot."""
        return self.inner.table

    def begin(self, call: Call) -> WatchedDraft:
        """Room for the block."""
        return WatchedDraft(self.inner.begin(call), self.watcher.begin(call))

    def tensors(self) -> Mapping[str, Tensor]:
        """What a snapshot would store."""
        return self.inner.tensors()

    def only(self, kept: tuple[int, ...]) -> WatchedCache:
        """The cache without any frame but these."""
        return WatchedCache(self.inner.only(kept), self.watcher.only(kept))

    def keys_values(self, layer: int, frames: tuple[int, ...]) -> KeysValues:
        """Keys and values of these frames."""
        return self.inner.keys_values(layer, frames)

    def folded(self, pairs: Sequence[tuple[int, int]], share: float) -> WatchedCache:
        """The cache in which frames have taken in others, where the watcher allows it."""
        watcher = self.watcher.folded(pairs, share)
        return WatchedCache(self.inner.folded(pairs, share), watcher)


@dataclass(frozen=True, slots=True)
class WatchedDraft:
    """A block that is watched; see `format.Draft`."""

    inner: Draft
    watcher: BlockWatcher

    def past(self, rows: slice) -> WatchedPast:
        """What the calls of these rows attend to."""
        return WatchedPast(self.inner.past(rows), self.watcher.past(rows))

    def show(self, memory: KeysValues | None) -> None:
        """What every layer attends to besides from here on."""
        self.inner.show(memory)
        self.watcher.show(memory)

    def commit(self, kept: tuple[int, ...]) -> WatchedCache:
        """The cache with this block in it."""
        watcher = self.watcher.commit(kept)
        return WatchedCache(self.inner.commit(kept), watcher)


@dataclass(frozen=True, slots=True)
class WatchedPast:
    """A dense past that is watched; see `attention.past.Past`."""

    inner: Past
    watcher: CallWatcher

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, *, keep: bool = True) -> None:
        """Take the call's keys and values."""
        self.inner.write(layer, x_BLC, k_BLND, v_BLND, keep=keep)
        self.watcher.write(layer, x_BLC, k_BLND, v_BLND, keep)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys at their positions and values."""
        self.watcher.read(layer)
        return self.inner.read(layer)

    def rotate(self, q_BLND: Tensor) -> Tensor:
        """The call's queries at their positions."""
        rotated_BLND = self.inner.rotate(q_BLND)
        self.watcher.rotate(q_BLND, rotated_BLND)
        return rotated_BLND
