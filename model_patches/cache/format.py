"""What every cache format offers, and the frames and positions of one block.

A cache is a value: its table of slots never changes. The bytes behind it are shared by a stream's successive
values; a block writes only to slots that no frame of the value it began from lies in, so whatever ends the
block early, that value still holds. Once its successor has been continued, a value is spent.

`core` is the one implementation of all this. A format brings a `core.Store`: which bytes it keeps of a token
and how it gives keys and values back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..arch.tree import DiTTree
from ..attention.past import Past
from ..attention.positions import PositionPreset, cached_frames, plan
from .cost import CacheCost
from .shapes import CacheShape, KeysValues


@dataclass(frozen=True, slots=True)
class Call:
    """What one block attends to: true latent frames, rising, and the RoPE id of each."""

    kept: tuple[int, ...]  # frames the cache must hold
    own: tuple[int, ...]  # frames of the block itself
    ids: tuple[int, ...]  # of kept + own
    query_ids: tuple[int, ...]  # of own, when they ask
    memory_ids: tuple[int, ...] = ()  # of the memory, once there is one; see `Draft.show`


def call_of(preset: PositionPreset, start_frame: int, block_frames: int) -> Call:
    """The frames and positions of the block that begins at `start_frame`."""
    positions = plan(preset, start_frame, block_frames, memory_visible=True)
    sink, window = cached_frames(preset, start_frame, block_frames)
    own = tuple(range(start_frame, start_frame + block_frames))
    return Call(sink + window, own, positions.sink + positions.window, positions.query, positions.memory)


def recache_call(preset: PositionPreset, start_frame: int, block_frames: int) -> Call:
    """The newest frames beside the sink as one long block, to be run again before the block at `start_frame`.

    As many as a window holds, so also those that the block will push out; they stand where they stood when
    the newest of them was made. `own` is empty while all frames are sink. Only where ids count on is the
    memory shown besides (LongLive and Echo-Infinity, their released code).
    """
    sink, window = cached_frames(preset, start_frame, block_frames)
    if preset.window_frames is not None:
        window = tuple(range(max(len(sink), start_frame - preset.window_frames), start_frame))
    if not window:
        return Call(sink, (), (), ())
    positions = plan(preset, window[0], len(window), memory_visible=preset.last_id is None)
    return Call(sink, window, positions.sink + positions.query, positions.query, positions.memory)


class Draft(Protocol):
    """A block that is being made: its frames lie in scratch slots until it is committed."""

    def past(self, rows: slice) -> Past:
        """What the calls of these batch rows attend to; each call overwrites what the call before wrote."""
        ...

    def show(self, memory: KeysValues | None) -> None:
        """What every layer of the calls from here on attends to besides: nothing, or a memory.

        memory: keys before RoPE and values [R, M, N, D] of all rows, M as the call's `memory_ids` say.
        """
        ...

    def commit(self, kept: tuple[int, ...]) -> Cache:
        """The cache with this block in it, less every frame that is not in `kept`."""
        ...


class Cache(Protocol):
    """The kept frames of one stream."""

    @property
    def shape(self) -> CacheShape:
        """The sizes it was made for."""
        ...

    @property
    def frames(self) -> tuple[int, ...]:
        """Latent frames it holds, rising."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes allocated for kept frames, free slots included, working space not."""
        ...

    @property
    def table(self) -> tuple[int, ...]:
        """Latent frame in each slot, -1 for a free one: goes into a snapshot as it is."""
        ...

    def begin(self, call: Call) -> Draft:
        """Room for the block; refuses a cache that does not hold just the frames the call attends to."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """What a snapshot must store beside `table`: the kept frames, no more."""
        ...

    def only(self, kept: tuple[int, ...]) -> Cache:
        """The cache without any frame but these; `()` forgets all."""
        ...

    def keys_values(self, layer: int, frames: tuple[int, ...]) -> KeysValues:
        """Keys before RoPE and values [R, L, N, D] of these frames, in their order, rebuilt where needed."""
        ...

    def folded(self, pairs: Sequence[tuple[int, int]], share: float) -> Cache:
        """The cache in which the first frame of each pair holds `share` of the second's keys and values.

        In what is kept of them, where keys and values are linear in that. The first frames must be kept
        exactly. Their bytes change when the next block begins, and the value before is spent then.
        """
        ...


class CacheFormat(Protocol):
    """How frames are kept: a value that a stream is begun with, and taken up again with."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def cost(self) -> CacheCost:
        """Its bytes, before anything is allocated."""
        ...

    def empty(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> Cache:
        """A cache with nothing in it and room for `frames` latent frames, the current block's included.

        dtype: what the model computes in. Refuses a model the format cannot be used with.
        """
        ...

    def restored(
        self,
        model: DiTTree,
        shape: CacheShape,
        table: tuple[int, ...],
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Cache:
        """The cache that gave `table` and `tensors`, frame by frame in the same slots."""
        ...

    def spec(self) -> Mapping[str, object]:
        """What tells this format from every other, fit for JSON; a snapshot is taken up by an equal one."""
        ...

    @property
    def error(self) -> float | None:
        """Error of attention's output that was measured when it was calibrated; None: nothing was."""
        ...

    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if it cannot keep the frames of this model by its sizes and names, else None."""
        ...

    def check_weights(self, weights_LKR: Tensor, channels: int, adapted: bool = False) -> str:
        """'' if it was made for a model of these weights, a sentence if those are adapted or kept otherwise.

        Raises ValueError for another model. weights: see `arch.fingerprint.sketch`. adapted: the caller knows
        of adapters (LoRA) on the model.
        """
        ...

    def scaled_cost(self, shape: CacheShape, channels: int) -> CacheCost:
        """Its bytes at the sizes of another model, in the same shares of the width.

        channels: the width of the model it was made for.
        """
        ...


class ForAnyModel(ABC):
    """What a format answers that was made for no model in particular."""

    @property
    @abstractmethod
    def cost(self) -> CacheCost:
        """Its bytes."""

    @property
    def error(self) -> float | None:
        """Nothing was measured."""
        return None

    def why_not(self, model: DiTTree) -> str | None:
        """It can keep every model's frames."""
        return None

    def check_weights(self, weights_LKR: Tensor, channels: int, adapted: bool = False) -> str:
        """It belongs to no weights."""
        return ""

    def scaled_cost(self, shape: CacheShape, channels: int) -> CacheCost:
        """Bytes are counted alike on every model."""
        return self.cost
