"""The cache that keeps keys and values as they are, in the compute dtype.

R batch rows, S tokens per latent frame, L tokens, N heads, D head width. Keys are kept after their norm and
before RoPE and turned when read, so a frame's position may change from block to block. Keys are an unordered
set: frames lie in whatever slot was free, the filled slots always form the beginning of the buffer, and one
slice of it is what a layer attends to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ..attention.rope import rope_table
from .format import CacheShape, Call
from .slots import FREE, Slots, runs


def dense_bytes(shape: CacheShape, frames: int, dtype: torch.dtype) -> int:
    """Bytes of keys and values of so many latent frames in all layers."""
    width = shape.heads * shape.head_dim
    return 2 * shape.layers * shape.rows * frames * shape.frame_tokens * width * dtype.itemsize


class DenseStore:
    """The bytes behind one stream's dense caches, and the room for turned keys that all layers share."""

    def __init__(self, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.claimed = 0
        self._allocate(frames, dtype, device)

    def reserve(self, frames: int) -> None:
        """Have at least so many slots; what lies in the present ones stays."""
        if frames > len(self.claims):
            self._allocate(max(frames, 2 * len(self.claims)), self.kv.dtype, self.kv.device, self)

    def _allocate(
        self, frames: int, dtype: torch.dtype, device: torch.device, old: DenseStore | None = None
    ) -> None:
        shape, wide = self.shape, torch.promote_types(dtype, torch.float32)
        tokens, heads = frames * shape.frame_tokens, (shape.heads, shape.head_dim)
        kv = torch.zeros(shape.layers, 2, shape.rows, tokens, *heads, dtype=dtype, device=device)
        turned = torch.empty(shape.rows, tokens, *heads, dtype=dtype, device=device)
        table = torch.zeros(tokens, shape.head_dim // 2, 2, dtype=wide, device=device)
        claims = [0] * frames
        if old is not None:
            kv[:, :, :, :old.kv.shape[3]] = old.kv
            claims[:len(old.claims)] = old.claims
        # nothing is taken over before everything has found room
        self.kv, self.turned, self._table = kv, turned, table  # kv: [layers, 2, R, L, N, D]
        self.claims: list[int] = claims
        self._ids: list[int | None] = [None] * frames

    def claim(self, slots: Sequence[int]) -> int:
        """Number under which these slots are written from here on; tables with an older number are spent."""
        self.claimed += 1
        for slot in slots:
            self.claims[slot] = self.claimed
        return self.claimed

    def turn_table(self, ids: Sequence[int]) -> Tensor:
        """(cos, sin) of the keys of the first slots, one id a slot; angles are made where the id changed."""
        size = self.shape.frame_tokens
        changed = [slot for slot, place in enumerate(ids) if self._ids[slot] != place]
        for start, stop, _ in runs(changed):
            self._ids[start:stop] = [None] * (stop - start)
            self._table[start * size:stop * size] = self.angles(ids[start:stop])
            self._ids[start:stop] = ids[start:stop]
        return self._table[:len(ids) * size]

    def angles(self, ids: Sequence[int]) -> Tensor:
        """(cos, sin) of whole frames at these ids, in float64 for a float64 cache, else float32."""
        shape, dtype = self.shape, torch.promote_types(self.kv.dtype, torch.float32)
        return rope_table(ids, shape.grid_height, shape.grid_width, shape.head_dim, self.kv.device, dtype)


@dataclass(frozen=True, slots=True)
class DenseCache:
    """Kept frames of one stream; see `format.Cache`."""

    store: DenseStore
    slots: Slots

    @staticmethod
    def empty(shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device) -> DenseCache:
        """A cache with nothing in it and room for `frames` latent frames, the current block's included."""
        return DenseCache(DenseStore(shape, frames, dtype, device), Slots.empty(frames))

    @staticmethod
    def restored(
        shape: CacheShape, table: tuple[int, ...], tensors: Mapping[str, Tensor], device: torch.device
    ) -> DenseCache:
        """The cache that gave `table` and `tensors`, frame by frame in the same slots."""
        kept = tensors["kv"]
        cache = DenseCache.empty(shape, len(table), kept.dtype, device)
        filled = [slot for slot, frame in enumerate(table) if frame != FREE]
        size = shape.frame_tokens
        for start, stop, at in runs(filled):
            part = kept[:, :, :, at * size:(at + stop - start) * size]
            cache.store.kv[:, :, :, start * size:stop * size] = part
        claim = cache.store.claim(filled)
        return DenseCache(cache.store, cache.slots.put(filled, [table[slot] for slot in filled], claim))

    @property
    def shape(self) -> CacheShape:
        """The sizes it was made for."""
        return self.store.shape

    @property
    def frames(self) -> tuple[int, ...]:
        """Latent frames it holds, rising."""
        return self.slots.held

    @property
    def table(self) -> tuple[int, ...]:
        """Latent frame in each slot, -1 for a free one."""
        return self.slots.frames

    @property
    def bytes(self) -> int:
        """Bytes allocated for kept frames, free slots included, working space not."""
        return dense_bytes(self.shape, len(self.store.claims), self.store.kv.dtype)

    def begin(self, call: Call) -> DenseDraft:
        """Room for the block in slots that hold no frame of this cache."""
        self._check_unspent()
        assert self.frames == call.kept, f"cache holds frames {self.frames}, the block attends to {call.kept}"
        self.store.reserve(len(call.kept) + len(call.own))
        slots = self.slots.grown(len(self.store.claims))
        scratch = slots.free[:len(call.own)]
        return DenseDraft(self.store, slots.put(scratch, call.own, self.store.claim(scratch)), scratch, call)

    def tensors(self) -> dict[str, Tensor]:
        """Keys and values of the kept frames in the order of their slots, [layers, 2, R, L, N, D]."""
        self._check_unspent()
        size, kv = self.shape.frame_tokens, self.store.kv
        filled = [slot for slot, frame in enumerate(self.table) if frame != FREE]
        parts = [kv[:, :, :, start * size:stop * size] for start, stop, _ in runs(filled)]
        return {"kv": torch.cat(parts, dim=3) if parts else kv[:, :, :, :0].clone()}

    def _check_unspent(self) -> None:
        claims = self.store.claims
        if any(frame != FREE and claims[slot] != self.slots.claims[slot]
               for slot, frame in enumerate(self.table)):
            raise RuntimeError(
                f"Stream: the state with latent frames up to {self.frames[-1]} is spent: the stream went on "
                f"from it or from the state before it, in its slots; take the newest state, or load one.")


class DenseDraft:
    """A block in scratch slots; see `format.Draft`."""

    def __init__(self, store: DenseStore, slots: Slots, scratch: Sequence[int], call: Call) -> None:
        place = dict(zip((*call.kept, *call.own), call.ids, strict=True))
        filled = len(place)
        assert FREE not in slots.frames[:filled], f"filled slots must come first: {slots.frames}"
        self.store, self.slots = store, slots
        self.runs = tuple(runs(scratch))
        self.filled_tokens = filled * store.shape.frame_tokens
        self.key_table = store.turn_table([place[frame] for frame in slots.frames[:filled]])
        self.query_table = store.angles(call.query_ids)

    def past(self, rows: slice) -> DensePast:
        """What the calls of these batch rows attend to."""
        return DensePast(self, rows)

    def commit(self, kept: tuple[int, ...]) -> DenseCache:
        """The cache with this block in it, less every frame that is not in `kept`."""
        return DenseCache(self.store, self.slots.only(kept))


class DensePast:
    """The filled slots of some batch rows, layer by layer; see `attention.past.Past`."""

    def __init__(self, draft: DenseDraft, rows: slice) -> None:
        size = draft.store.shape.frame_tokens
        self.key_table, self.query_table = draft.key_table, draft.query_table
        self.turned = draft.store.turned[rows, :draft.filled_tokens]
        self.layers = [kv.unbind(0) for kv in draft.store.kv[:, :, rows, :draft.filled_tokens].unbind(0)]
        self.pieces = [
            (slice(start * size, stop * size), slice(at * size, (at + stop - start) * size))
            for start, stop, at in draft.runs]

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        """Put the call's keys and values into the scratch slots."""
        keys, values = self.layers[layer]
        for slots, tokens in self.pieces:
            keys[:, slots] = k_BLND[:, tokens]
            values[:, slots] = v_BLND[:, tokens]

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys at their positions, in the room all layers share, and values, in place."""
        keys, values = self.layers[layer]
        return rotate(keys, self.key_table, out=self.turned), values

    def turn(self, q_BLND: Tensor) -> Tensor:
        """The call's queries at their positions."""
        return rotate(q_BLND, self.query_table)
