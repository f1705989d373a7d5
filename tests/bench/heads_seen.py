"""An attention that is told which layer asks, and which latent frames the keys before it are of.

For experiments that a cache format cannot make, because heads or queries read different tokens: the stream is
dense and the attention leaves out, or puts together, what the experiment says. B batch rows, L tokens,
N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ...model_patches.arch.tree import DiTTree
from ...model_patches.attention.rope import rope_table
from ...model_patches.attention.sdpa import sdpa
from ...model_patches.cache.format import Call
from ...model_patches.cache.shapes import CacheShape, KeysValues
from ...model_patches.cache.slots import Slots
from ...model_patches.cache.watched import WatchedFormat


@dataclass(frozen=True)
class Glance:
    """What a layer has before it."""

    layer: int
    frames: tuple[int, ...]  # latent frame of each stretch of `frame_tokens` keys; memory tokens come after
    new: tuple[int, ...]  # of them, the block's own
    frame_tokens: int
    ids: Mapping[int, int] = field(default_factory=dict)  # each frame's position
    shape: CacheShape | None = None  # of the cache

    @property
    def past(self) -> tuple[int, ...]:
        """The other frames, oldest first."""
        return tuple(sorted(set(self.frames) - set(self.new)))

    def tokens(self, frames: Sequence[int]) -> Tensor:
        """Places of these frames' keys, frame after frame: int64 [frames x frame_tokens]."""
        starts = torch.tensor([self.frames.index(frame) for frame in frames], dtype=torch.int64)
        return (starts[:, None] * self.frame_tokens + torch.arange(self.frame_tokens)).flatten()

    def turned(self, x_BLND: Tensor, frames: Sequence[int], back: bool = False) -> Tensor:
        """Keys of these frames, frame after frame, after RoPE; back: from after it to before it."""
        assert self.shape is not None
        shape, ids = self.shape, [self.ids[frame] for frame in frames]
        table = rope_table(
            ids, shape.grid_height, shape.grid_width, shape.head_dim, dtype=x_BLND.dtype, layout=shape.rope
        )
        return rotate(x_BLND, table * table.new_tensor([1, -1]) if back else table)


Attend = Callable[[Glance, Tensor, Tensor, Tensor], Tensor]  # queries, rotated keys and values [B, L, N, D]


class Looking:
    """The attention of a stream whose cache is `format()`; attention to text stays as it is."""

    def __init__(self, attend: Attend) -> None:
        self.attend = attend
        self.asked: Glance | None = None

    def __call__(self, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        asked, self.asked = self.asked, None
        return sdpa(q_BLND, k_BLND, v_BLND) if asked is None else self.attend(asked, q_BLND, k_BLND, v_BLND)

    def format(self, name: str) -> WatchedFormat:
        """A dense cache that tells this attention what it reads."""

        def start(
            model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
        ) -> _Stream:
            return _Stream(self, Slots.empty(frames), shape)

        return WatchedFormat(start, name)


@dataclass(frozen=True, slots=True)
class _Stream:
    """The slots of the dense cache beside it, which puts frames where `cache.core` does."""

    looking: Looking
    slots: Slots
    shape: CacheShape

    def begin(self, call: Call) -> _Block:
        """The block's frames in the first free slots."""
        slots = self.slots.grow(len(call.cached) + len(call.new))
        slots = slots.put(slots.free[: len(call.new)], call.new, claim=0)
        return _Block(_Stream(self.looking, slots, self.shape), call)

    def fold(self, pairs: Sequence[tuple[int, int]], share: float) -> _Stream:
        """The same frames."""
        return self

    def retain(self, frames: tuple[int, ...]) -> _Stream:
        """Without any frame but these."""
        return _Stream(self.looking, self.slots.retain(frames), self.shape)


@dataclass(frozen=True, slots=True)
class _Block:
    stream: _Stream
    call: Call

    def past(self, rows: slice) -> _Block:
        """All rows read the same frames."""
        return self

    def set_memory(self, memory: KeysValues | None) -> None:
        """Its tokens come after the frames', and every head reads them."""

    def commit(self, frames: tuple[int, ...]) -> _Stream:
        """The stream with the block in it."""
        return self.stream.retain(frames)

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, keep: bool) -> None:
        """The dense cache has them."""

    def read(self, layer: int) -> None:
        """The attention is told."""
        stream = self.stream
        frames = tuple(stream.slots.frames[slot] for slot in stream.slots.filled)
        ids = dict(zip((*self.call.cached, *self.call.new), self.call.ids, strict=True))
        given = frames, self.call.new, stream.shape.frame_tokens, ids, stream.shape
        stream.looking.asked = Glance(layer, *given)

    def rotate(self, q_BLND: Tensor, rotated_BLND: Tensor) -> None:
        """The queries come with the attention."""
