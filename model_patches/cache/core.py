"""One core for all formats: slots, claims, drafts and snapshots over a format's store.

Keys are kept before RoPE, in whatever form, and turned when read, so a frame's position may change from block
to block. Keys are an unordered set: frames lie in whatever slot was free, the filled slots always form the
beginning of the rooms, and one slice of it is what a layer attends to.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ..arch.tree import DiTTree
from .fold import Fold
from .format import Call, ForAnyModel
from .shapes import CacheShape, KeysValues
from .slots import FREE, Slots, runs
from .store import Layout, Own, Pairs, Place, Store

EXACT_FRAMES = "exact.frames"  # in a snapshot: which frames are kept exactly


@dataclass(frozen=True, slots=True)
class SlotCache:
    """Kept frames of one stream; see `format.Cache`."""

    store: Store
    slots: Slots
    exact: Slots  # of frames that are kept as they are besides
    fold: Fold | None = None  # is written when the next block opens

    @staticmethod
    def empty(store: Store) -> SlotCache:
        """A cache with nothing in it over new bytes."""
        return SlotCache(store, Slots.empty(len(store.claims)), Slots.empty(store.exact.slots))

    @staticmethod
    def restored(store: Store, table: tuple[int, ...], tensors: Mapping[str, Tensor]) -> SlotCache:
        """The cache that gave `table` and `tensors`, over new bytes with as many slots."""
        empty = SlotCache.empty(store)
        filled = [slot for slot, frame in enumerate(table) if frame != FREE]
        frames: list[int] = tensors[EXACT_FRAMES].tolist() if EXACT_FRAMES in tensors else []
        exact = range(len(frames))
        store.put_back(filled, exact, tensors)
        claim = store.claim(filled, exact)
        slots = empty.slots.put(filled, [table[slot] for slot in filled], claim)
        return SlotCache(store, slots, empty.exact.put(exact, frames, claim))

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
        return self.store.bytes

    def begin(self, call: Call) -> SlotDraft:
        """Room for the block in slots that hold no frame of this cache, once a fold is written."""
        self._check_unspent()
        assert self.frames == call.kept, f"cache holds frames {self.frames}, the block attends to {call.kept}"
        store, exact_frames = self.store, self.store.exact.of(call.own)
        store.reserve(len(call.kept) + len(call.own))
        if self.fold is not None:
            with store.lock:
                self.fold.write(store)
        slots, exact = self._tables()
        slots = slots.grown(len(store.claims))
        scratch = slots.free[: len(call.own)]
        exact_scratch = exact.free[: len(exact_frames)]
        claim = store.claim(scratch, exact_scratch)
        cache = SlotCache(
            store, slots.put(scratch, call.own, claim), exact.put(exact_scratch, exact_frames, claim)
        )
        return SlotDraft(cache, call)

    def tensors(self) -> dict[str, Tensor]:
        """What the store keeps of the kept frames, in the order of their slots."""
        with self._reading():
            exact = self.exact.filled
            saved = self.store.saved(self.slots.filled, exact)
            if self.fold is not None:
                self.fold.save(self.store, saved, self._unrounded.filled)
        if exact:
            saved[EXACT_FRAMES] = torch.tensor([self.exact.frames[slot] for slot in exact])
        return saved

    def only(self, kept: tuple[int, ...]) -> SlotCache:
        """The cache without any frame but these; `()` forgets all."""
        exact = self.exact.only(self.store.exact.of(tuple(sorted(kept))))
        made = SlotCache(self.store, self.slots.only(kept), exact)
        fold = self.fold
        goes_on = fold is not None and any(made._unrounded.frames[slot] != FREE for slot in fold.at)
        return replace(made, fold=fold) if goes_on else made

    def keys_values(self, layer: int, frames: tuple[int, ...]) -> KeysValues:
        """Keys before RoPE and values [R, L, N, D] of these frames, in their order."""
        with self._reading():
            if self.fold is None:
                return self.store.keys_values(layer, self._places(frames))
            folded, table = self.fold.keys_values(self.store, layer), self._unrounded.frames
            made = {table[slot]: pair for slot, pair in folded.items()}
            made |= {f: self.store.keys_values(layer, self._places([f])) for f in frames if f not in made}
        keys, values = (torch.cat([made[frame][side] for frame in frames], 1) for side in (0, 1))
        return keys, values

    def folded(self, pairs: Sequence[tuple[int, int]], share: float) -> SlotCache:
        """The cache in which each first frame holds `share` of the second; they must be kept exactly."""
        self._check_unspent()
        assert self.fold is None, "frames are folded once between two blocks"
        table, others = self._unrounded, [other for _, other in pairs]
        lost = [frame for frame, _ in pairs if frame not in table.frames]
        if lost:
            raise ValueError(
                f"Cache: latent frames {lost} are to take in others little by little, and this format keeps "
                f"them rounded; keep the sink exact (`exact` sink frames), or take format dense."
            )
        at = tuple(table.frames.index(frame) for frame, _ in pairs)
        source = self.slots.only(others), self.exact.only(others)
        fold = Fold(self.store.number_fold(), at, tuple(self._places(others)), share, source)
        return replace(self, fold=fold)

    @property
    def _unrounded(self) -> Slots:
        """The table of frames that are kept unrounded."""
        return self.slots if self.store.keeps_exactly else self.exact

    def _tables(self) -> tuple[Slots, Slots]:
        """Both tables, as the store's slots are claimed."""
        fold = self.fold
        if fold is None or not fold.has_begun(self.store):
            return self.slots, self.exact
        changed = self._unrounded.claimed(fold.at, fold.claim)
        return (changed, self.exact) if self.store.keeps_exactly else (self.slots, changed)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Checks that the frames are there; no fold is written meanwhile."""
        with self.store.lock if self.fold is not None else nullcontext():
            self._check_unspent()
            yield

    def _places(self, frames: Sequence[int]) -> list[Place]:
        size, exact = self.shape.frame_tokens, self.exact.frames
        tokens = [slice(slot * size, (slot + 1) * size) for slot in range(len(self.slots.frames))]
        return [
            (tokens[self.slots.frames.index(frame)], tokens[exact.index(frame)] if frame in exact else None)
            for frame in frames
        ]

    def _check_unspent(self) -> None:
        store, (slots, exact) = self.store, self._tables()
        there = slots.current(store.claims) and exact.current(store.exact_claims)
        if not (there and (self.fold is None or self.fold.is_possible(store))):
            raise RuntimeError(
                f"Stream: the state with latent frames up to {self.frames[-1]} is spent: the stream went on "
                f"from it or from the state before it, in its slots; take the newest state, or load one."
            )


class SlotDraft:
    """A block in scratch slots; see `format.Draft`."""

    def __init__(self, cache: SlotCache, call: Call) -> None:
        """cache: with the block's frames in its slots."""
        place = dict(zip((*call.kept, *call.own), call.ids, strict=True))
        frames = cache.slots.frames[: len(place)]
        assert FREE not in frames, f"filled slots must come first: {frames}"
        self.cache, self.store = cache, cache.store
        self.at = _layout(cache, frames, call.own)
        self.key_table = self.store.turn_table([place[frame] for frame in frames])
        self.query_table = self.store.angles(call.query_ids)
        self.memory_ids = call.memory_ids

    def past(self, rows: slice) -> SlotPast:
        """What the calls of these batch rows attend to."""
        return SlotPast(self, rows)

    def show(self, memory: KeysValues | None) -> None:
        """What every layer of the calls from here on attends to besides."""
        tokens = 0 if memory is None else memory[0].shape[1]
        room = len(self.memory_ids) * self.cache.shape.frame_tokens
        assert tokens in (0, room), f"a memory of {tokens} tokens at ids {self.memory_ids}"
        self.at = replace(self.at, memory=tokens)
        if memory is not None:
            self.store.place_memory(self.at, memory, self.memory_ids)

    def commit(self, kept: tuple[int, ...]) -> SlotCache:
        """The cache with this block in it, less every frame that is not in `kept`."""
        return self.cache.only(kept)


def _layout(cache: SlotCache, frames: tuple[int, ...], own: tuple[int, ...]) -> Layout:
    """frames: of the filled slots, slot by slot."""
    size = cache.shape.frame_tokens
    at = {frame: slot for slot, frame in enumerate(frames)}
    call = {frame: index for index, frame in enumerate(own)}
    exact = {cache.exact.frames[slot]: slot for slot in cache.exact.filled}
    before = [frame for frame in frames if frame not in call]
    return Layout(
        slice(0, len(frames) * size),
        _pairs(((at[frame], call[frame]) for frame in own), size),
        tuple(
            slice(start * size, stop * size)
            for start, stop, _ in runs([at[frame] for frame in before if frame not in exact])
        ),
        _pairs(((at[frame], exact[frame]) for frame in before if frame in exact), size),
        _pairs(((exact[frame], call[frame]) for frame in own if frame in exact), size),
    )


def _pairs(frames: Iterable[tuple[int, int]], size: int) -> Pairs:
    """Slices of tokens of both sides, as long as both sides go on together."""
    joined: list[tuple[int, int, int]] = []  # first on either side, frames
    for one, other in frames:
        first, second, count = joined[-1] if joined else (0, 0, 0)
        if count and (one, other) == (first + count, second + count):
            joined[-1] = first, second, count + 1
        else:
            joined.append((one, other, 1))
    return tuple(
        (slice(first * size, (first + count) * size), slice(second * size, (second + count) * size))
        for first, second, count in joined
    )


class SlotPast:
    """The filled slots of some batch rows, layer by layer; see `attention.past.Past`."""

    def __init__(self, draft: SlotDraft, rows: slice) -> None:
        self.draft, self.store, self.rows = draft, draft.store, rows
        self.key_table, self.query_table = draft.key_table, draft.query_table
        self.own: tuple[int, Own] | None = None

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, *, keep: bool = True) -> None:
        """Hand the call's tokens to the store."""
        own = k_BLND, v_BLND
        self.store.write(layer, self.rows, self.draft.at, x_BLC, own, keep)
        self.own = layer, own

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys at their positions, and values."""
        written, self.own = self.own, None  # not held while the rest of the layer runs
        own = written[1] if written is not None and written[0] == layer else None
        return self.store.read(layer, self.rows, self.draft.at, self.key_table, own)

    def rotate(self, q_BLND: Tensor) -> Tensor:
        """The call's queries at their positions."""
        return rotate(q_BLND, self.query_table)


class StoredFormat(ForAnyModel):
    """A format by its store; see `format.CacheFormat`."""

    @abstractmethod
    def store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> Store:
        """New bytes for so many latent frames of a model that it can take."""

    def empty(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> SlotCache:
        """A cache with nothing in it."""
        return SlotCache.empty(self._store(model, shape, frames, dtype, device))

    def restored(
        self,
        model: DiTTree,
        shape: CacheShape,
        table: tuple[int, ...],
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> SlotCache:
        """The cache that gave `table` and `tensors`."""
        return SlotCache.restored(self._store(model, shape, len(table), dtype, device), table, tensors)

    def _store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> Store:
        if refusal := self.why_not(model):
            raise ValueError(refusal)
        return self.store(model, shape, frames, dtype, device)
