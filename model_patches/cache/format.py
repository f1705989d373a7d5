"""The interfaces of cache formats, and the frames and positions of one block.

A cache is a value: its table of slots never changes. A stream's successive values share one store; a block
writes only to slots without a frame of the value it began from, so that value stays valid if the block is
interrupted. Once its successor has been continued, a value is spent.

`core` is the one implementation of all this. A format supplies a `store.Store`: its buffers, and how
to write and read keys and values.
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
from ..attention.positions import PositionPreset, Positions, cached_frames, ids_apart, joint, plan
from .cost import CacheCost
from .shapes import CacheShape, KeysValues, MemorySeen


@dataclass(frozen=True, slots=True)
class Call:
    """Latent frames that one block attends to, ascending, and the RoPE id of each."""

    cached: tuple[int, ...]  # latent frames that the cache must hold
    new: tuple[int, ...]  # latent frames of the block
    ids: tuple[int, ...]  # of cached + new, without the unseen
    query_ids: tuple[int, ...]  # of new, for the queries
    memory_ids: tuple[int, ...] = ()  # of the memory, once there is one; see `Draft.set_memory`
    unseen: tuple[int, ...] = ()  # of cached: frames for other calls, which this one does not attend to

    @property
    def seen(self) -> tuple[int, ...]:
        """Cached frames that it attends to."""
        return tuple(frame for frame in self.cached if frame not in self.unseen)


def call_of(preset: PositionPreset, start_frame: int, block_frames: int, *, shot: bool = False) -> Call:
    """The frames and positions of the block that begins at `start_frame`.

    shot: of a scene whose sink is frames of the last shot, with ids left free behind them.
    """
    apart = ids_apart(preset, block_frames) if shot else 0
    positions = plan(preset, start_frame, block_frames, memory_visible=True, apart=apart)
    sink, window = cached_frames(preset, start_frame, block_frames)
    new = tuple(range(start_frame, start_frame + block_frames))
    ids, unseen = positions.sink + positions.window, _unseen(sink, positions)
    return Call(sink + window, new, ids, positions.query, positions.memory, unseen)


def joint_call(preset: PositionPreset, start_frame: int, frames: int, *, shot: bool = False) -> Call:
    """The frames and positions of a call that denoises so many latent frames together; see `joint`.

    shot: as in `call_of`.
    """
    return call_of(joint(preset, frames), start_frame, frames, shot=shot)


def recache_call(preset: PositionPreset, start_frame: int, block_frames: int, *, shot: bool = False) -> Call:
    """The newest frames after the sink as one long block, to be recached before the block at `start_frame`.

    A full window, so also the frames that the block will evict; their ids are those of the block that
    generated the newest of them. `new` is empty while all frames are sink. Only with growing ids is the
    memory attended to besides (LongLive and Echo-Infinity, their released code). shot: as in `call_of`;
    before such a scene's first block it is the frames of the last shot, by themselves, that are run.
    """
    apart = ids_apart(preset, block_frames) if shot else 0
    if shot and start_frame <= preset.sink_frames:
        kept = tuple(range(start_frame))
        return Call((), kept, kept, kept)
    sink, window = cached_frames(preset, start_frame, block_frames)
    if preset.window_frames is not None:
        window = tuple(range(max(len(sink), start_frame - preset.window_frames), start_frame))
    if not window:
        return Call(sink, (), (), ())
    positions = plan(preset, window[0], len(window), memory_visible=preset.last_id is None, apart=apart)
    ids, unseen = positions.sink + positions.query, _unseen(sink, positions)
    return Call(sink, window, ids, positions.query, positions.memory, unseen)


def _unseen(sink: tuple[int, ...], positions: Positions) -> tuple[int, ...]:
    """The sink's frames that have no ids: its oldest, where it is within a window that has gone on."""
    return sink[: max(0, len(sink) - len(positions.sink))]


class Draft(Protocol):
    """A block that is being denoised: its frames are in scratch slots until `commit`."""

    def past(self, rows: slice) -> Past:
        """The past of calls of these batch rows; each call overwrites the tokens of the call before."""
        ...

    def set_memory(self, memory: MemorySeen | None) -> None:
        """Set the memory that the layers of the following calls attend to; None for no memory.

        memory: keys before RoPE and values [R, M, N, D] of all rows, M tokens for the call's `memory_ids`,
        or what gives them layer by layer.
        """
        ...

    def commit(self, frames: tuple[int, ...]) -> Cache:
        """The cache with this block's frames; frames that are not in `frames` are evicted."""
        ...


class Cache(Protocol):
    """The cached frames of one stream."""

    @property
    def shape(self) -> CacheShape:
        """Sizes of its buffers."""
        ...

    @property
    def frames(self) -> tuple[int, ...]:
        """Cached latent frames, ascending."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes allocated for frames, free slots included, the workspace not."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the frames lie."""
        ...

    def move(self, device: torch.device) -> None:
        """Moves the frames there in place, bit for bit, and those of all caches of this stream.

        Elsewhere than on the model's device they can only be read by `tensors`, and moved back.
        """
        ...

    def free(self) -> None:
        """Gives their memory back, whoever still holds a cache of this stream: all of them are spent."""
        ...

    @property
    def table(self) -> tuple[int, ...]:
        """Latent frame in each slot, -1 for a free one; part of a snapshot."""
        ...

    def begin(self, call: Call) -> Draft:
        """A draft of the block; the cache must hold exactly `call.cached`. Writes a fold that is pending."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Tensors of the cached frames for a snapshot, on the CPU, in the order of their slots.

        From a card the copies may still be under way: whoever reads them waits for it.
        """
        ...

    def retain(self, frames: tuple[int, ...]) -> Cache:
        """The cache with these frames alone; all others are evicted."""
        ...

    def keys_values(self, layer: int, frames: tuple[int, ...]) -> KeysValues:
        """Keys before RoPE and values [R, L, N, D] of these frames, in this order; decoded where encoded."""
        ...

    def fold(self, pairs: Sequence[tuple[int, int]], share: float) -> Cache:
        """The cache whose first frame of each pair is (1 - share) of itself plus `share` of the second.

        Keys and values are blended, or tokens they are linear in. ValueError where the first frames are
        rounded. The buffers change when the next block begins; the value before is spent then.
        """
        ...


class CacheFormat(Protocol):
    """How a stream's frames are stored: a value, chosen at its start and on resume."""

    @property
    def name(self) -> str:
        """Its name for users."""
        ...

    @property
    def cost(self) -> CacheCost:
        """Its bytes and FLOPs."""
        ...

    def empty(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> Cache:
        """A cache without frames and with slots for `frames` latent frames, the block's included.

        dtype: the model's compute dtype. Raises ValueError for a model that `why_not` refuses.
        """
        ...

    def restore(
        self,
        model: DiTTree,
        shape: CacheShape,
        table: tuple[int, ...],
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Cache:
        """The cache with this `table` and these `tensors`, each frame in the same slot.

        ValueError, before anything is allocated, for tensors that are not those of these frames.
        """
        ...

    def spec(self) -> Mapping[str, object]:
        """Its settings as JSON values; a snapshot resumes only with a format of equal spec."""
        ...

    @property
    def error(self) -> float | None:
        """Relative error of the attention output, measured at calibration; None for no measurement."""
        ...

    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if it cannot store frames of this model, by sizes and module names, else None."""
        ...

    def check_weights(self, weights_LKR: Tensor, channels: int, adapted: bool = False) -> str:
        """'' if it fits these weights, a warning if they are adapted or quantised since its calibration.

        Raises ValueError for another model. weights: see `arch.fingerprint.sketch`. adapted: the model has
        adapters (LoRA).
        """
        ...

    def scaled_cost(self, shape: CacheShape, channels: int) -> CacheCost:
        """Its cost at the sizes of another model, with ranks in proportion to the width.

        channels: the width of the model it belongs to.
        """
        ...


class ForAnyModel(ABC):
    """The defaults of a format that needs no calibration."""

    @property
    @abstractmethod
    def cost(self) -> CacheCost: ...

    @property
    def error(self) -> float | None:
        return None

    def why_not(self, model: DiTTree) -> str | None:
        return None

    def check_weights(self, weights_LKR: Tensor, channels: int, adapted: bool = False) -> str:
        return ""

    def scaled_cost(self, shape: CacheShape, channels: int) -> CacheCost:
        return self.cost
