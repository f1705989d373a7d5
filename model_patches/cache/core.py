"""One core for all formats: slots, claims, drafts and snapshots over a format's store.

Keys are stored before RoPE and rotated when read, so a frame's position may change from block to block. Keys
are an unordered set: a frame is in any free slot, the filled slots are always the first ones, and a layer
attends to one slice of the buffers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..arch.tree import DiTTree, Layer
from ..attention.past import Past
from ..attention.turning import Turning, norm_heads
from .chosen import ChosenPast
from .fold import Fold
from .format import Call, ForAnyModel
from .shapes import CacheShape, KeysValues, MemorySeen
from .slots import FREE, Slots, runs
from .store import Layout, Pairs, Place, Store

EXACT_FRAMES = "exact.frames"  # in a snapshot: indices of the exact frames


@dataclass(frozen=True, slots=True)
class SlotCache:
    """The cached frames of one stream; see `format.Cache`."""

    store: Store
    slots: Slots
    exact: Slots  # of frames that are stored exactly besides
    pending_fold: Fold | None = None  # written when the next block begins

    @staticmethod
    def empty(store: Store) -> SlotCache:
        """A cache without frames over a new store."""
        return SlotCache(store, Slots.empty(len(store.claims)), Slots.empty(store.exact.slots))

    @staticmethod
    def restore(store: Store, table: tuple[int, ...], tensors: Mapping[str, Tensor]) -> SlotCache:
        """The cache of these `table` and `tensors`, over a new store with as many slots."""
        empty = SlotCache.empty(store)
        filled = [slot for slot, frame in enumerate(table) if frame != FREE]
        frames: list[int] = tensors[EXACT_FRAMES].tolist() if EXACT_FRAMES in tensors else []
        exact = range(len(frames))
        store.load(filled, exact, tensors)
        claim = store.claim(filled, exact)
        slots = empty.slots.put(filled, [table[slot] for slot in filled], claim)
        return SlotCache(store, slots, empty.exact.put(exact, frames, claim))

    @property
    def shape(self) -> CacheShape:
        return self.store.shape

    @property
    def frames(self) -> tuple[int, ...]:
        return self.slots.sorted_frames

    @property
    def table(self) -> tuple[int, ...]:
        return self.slots.frames

    @property
    def bytes(self) -> int:
        return self.store.bytes

    @property
    def device(self) -> torch.device:
        return self.store.device

    def move(self, device: torch.device) -> None:
        self.store.move(device)

    def free(self) -> None:
        self.store.free()

    def begin(self, call: Call) -> SlotDraft:
        self._check_unspent()
        assert self.frames == call.cached, f"cache holds {self.frames}, the block attends to {call.cached}"
        store, exact_frames = self.store, self.store.exact.of(call.new)
        store.reserve(len(call.cached) + len(call.new))
        if self.pending_fold is not None:
            with store.lock:
                self.pending_fold.write(store)
        slots, exact = self._tables()
        slots = self._packed(slots.grow(len(store.claims)), len(call.cached) + len(call.new))
        scratch = slots.free[: len(call.new)]
        exact_scratch = exact.free[: len(exact_frames)]
        claim = store.claim(scratch, exact_scratch)
        cache = SlotCache(
            store, slots.put(scratch, call.new, claim), exact.put(exact_scratch, exact_frames, claim)
        )
        return SlotDraft(cache, call)

    def tensors(self) -> dict[str, Tensor]:
        with self._reading():
            exact = self.exact.filled
            saved = self.store.save(self.slots.filled, exact)
            if self.pending_fold is not None:
                self.pending_fold.save(self.store, saved, self._lossless_slots.filled)
        if exact:
            saved[EXACT_FRAMES] = torch.tensor([self.exact.frames[slot] for slot in exact])
        return saved

    def retain(self, frames: tuple[int, ...]) -> SlotCache:
        exact = self.exact.retain(self.store.exact.of(tuple(sorted(frames))))
        made = SlotCache(self.store, self.slots.retain(frames), exact)
        fold = self.pending_fold
        goes_on = fold is not None and any(made._lossless_slots.frames[slot] != FREE for slot in fold.at)
        return replace(made, pending_fold=fold) if goes_on else made

    def keys_values(self, layer: int, frames: tuple[int, ...]) -> KeysValues:
        with self._reading():
            if self.pending_fold is None:
                return self.store.keys_values(layer, self._places(frames))
            folded, table = self.pending_fold.keys_values(self.store, layer), self._lossless_slots.frames
            made = {table[slot]: pair for slot, pair in folded.items()}
            made |= {f: self.store.keys_values(layer, self._places([f])) for f in frames if f not in made}
        keys, values = (torch.cat([made[frame][side] for frame in frames], 1) for side in (0, 1))
        return keys, values

    def fold(self, pairs: Sequence[tuple[int, int]], share: float) -> SlotCache:
        self._check_unspent()
        assert self.pending_fold is None, "frames are folded once between two blocks"
        table, others = self._lossless_slots, [other for _, other in pairs]
        rounded = [frame for frame, _ in pairs if frame not in table.frames]
        if rounded:
            raise ValueError(
                f"Cache: latent frames {rounded} are to blend with others in small steps, and this format "
                f"rounds them; set as many exact sink frames, or take format dense."
            )
        at = tuple(table.frames.index(frame) for frame, _ in pairs)
        source = self.slots.retain(others), self.exact.retain(others)
        fold = Fold(self.store.number_fold(), at, tuple(self._places(others)), share, source)
        return replace(self, pending_fold=fold)

    @property
    def _lossless_slots(self) -> Slots:
        """The slots of frames that are stored without rounding."""
        return self.slots if self.store.lossless else self.exact

    def _tables(self) -> tuple[Slots, Slots]:
        """Both tables, with the claim of a fold that has begun."""
        fold = self.pending_fold
        if fold is None or not fold.has_begun(self.store):
            return self.slots, self.exact
        changed = self._lossless_slots.mark_claimed(fold.at, fold.claim)
        return (changed, self.exact) if self.store.lossless else (self.slots, changed)

    def _packed(self, slots: Slots, count: int) -> Slots:
        """The table with its frames in the first `count` slots: a window that gets shorter leaves a gap."""
        far = [slot for slot in slots.filled if slot >= count]
        if not far:
            return slots
        near, frames = slots.free[: len(far)], [slots.frames[slot] for slot in far]
        claim = self.store.claim(near)
        self.store.copy_slots(far, near)
        return slots.retain(set(slots.frames) - set(frames)).put(near, frames, claim)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Check that the state is not spent, and hold the lock against a fold."""
        with self.store.lock if self.pending_fold is not None else nullcontext():
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
        if store.freed:
            raise RuntimeError(
                "Stream: this state is spent: its cache went over to a smaller format when the card was "
                "full; take the newest state, or load a saved one."
            )
        there = slots.is_current(store.claims) and exact.is_current(store.exact_claims)
        if not (there and (self.pending_fold is None or self.pending_fold.is_possible(store))):
            raise RuntimeError(
                f"Stream: the state with latent frames up to {self.frames[-1]} is spent: the stream has "
                f"continued and reused its slots; take the newest state, or load a saved one."
            )


class SlotDraft:
    """A block in scratch slots; see `format.Draft`."""

    def __init__(self, cache: SlotCache, call: Call) -> None:
        """cache: with the block's frames in its slots."""
        place = dict(zip((*call.seen, *call.new), call.ids, strict=True)) | dict.fromkeys(call.unseen, 0)
        frames = cache.slots.frames[: len(place)]
        assert FREE not in frames, f"filled slots must come first: {frames}"
        self.cache, self.store, self.call = cache, cache.store, call
        self.at = _layout(cache, frames, call.new)
        self.key_table = self.store.rotation_table([place[frame] for frame in frames])
        self.query_table = self.store.angles(call.query_ids)
        self.memory_ids = call.memory_ids
        self.memory_table = self.store.angles(call.memory_ids) if call.memory_ids else None
        self.layer_memory: Callable[[int], KeysValues] | None = None  # of a memory that differs by layer

    def past(self, rows: slice) -> Past:
        past = SlotPast(self, rows)
        return ChosenPast(self.cache, self.call, self.store.dtype, rows, past) if self.call.unseen else past

    def set_memory(self, memory: MemorySeen | None) -> None:
        tokens = len(self.memory_ids) * self.cache.shape.frame_tokens
        self.at = replace(self.at, memory=0 if memory is None else tokens)
        self.layer_memory = None if isinstance(memory, tuple) else memory
        if isinstance(memory, tuple):
            self.place_memory(slice(None), memory)

    def place_memory(self, rows: slice, memory: KeysValues) -> None:
        """Write what the next reads of these rows see of the memory."""
        given, needed = memory[0].shape[1], self.at.memory
        assert given == needed and self.memory_table is not None, (
            f"a memory of {given} tokens at ids {self.memory_ids}"
        )
        self.store.place_memory(self.at, rows, memory, self.memory_table)

    def commit(self, frames: tuple[int, ...]) -> SlotCache:
        return self.cache.retain(frames)


def refuse_other(store: Store, table: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
    """ValueError unless these are the tensors of the table's frames.

    store: one for as many slots, on torch's device `meta`.
    """
    frames = tuple(sorted(frame for frame in table if frame != FREE))
    exact = tensors.get(EXACT_FRAMES, torch.empty(0, dtype=torch.int64))
    if exact.ndim != 1 or exact.dtype != torch.int64:
        raise ValueError(f"{EXACT_FRAMES} is {exact.dtype} {list(exact.shape)}")
    there, could = sorted(exact.tolist()), store.exact.of(frames)
    # where the newest frames are to be run again, those before them became the newest, and are rounded
    named = len(set(there)) == len(there) and set(there) <= set(could)
    if not named or any(frame < store.exact.sink and frame not in there for frame in could):
        raise ValueError(f"{EXACT_FRAMES} does not name the exact ones of latent frames {list(frames)}")
    with torch.device("meta"):
        needed = store.save([slot for slot, frame in enumerate(table) if frame != FREE], range(len(exact)))
    given = {name: tensor for name, tensor in tensors.items() if name != EXACT_FRAMES}
    for name in needed.keys() | given.keys():
        if name not in given or name not in needed:
            raise ValueError(f"{name} is {'missing' if name in needed else 'unknown'}")
        if (like := needed[name]).shape != given[name].shape or like.dtype != given[name].dtype:
            raise ValueError(
                f"{name} is {given[name].dtype} {list(given[name].shape)}, not {like.dtype} "
                f"{list(like.shape)}"
            )


def _layout(cache: SlotCache, frames: tuple[int, ...], new: tuple[int, ...]) -> Layout:
    """frames: of the filled slots, slot by slot."""
    size = cache.shape.frame_tokens
    at = {frame: slot for slot, frame in enumerate(frames)}
    call = {frame: index for index, frame in enumerate(new)}
    exact = {cache.exact.frames[slot]: slot for slot in cache.exact.filled}
    cached = [frame for frame in frames if frame not in call]
    return Layout(
        slice(0, len(frames) * size),
        _pairs(((at[frame], call[frame]) for frame in new), size),
        tuple(
            slice(start * size, stop * size)
            for start, stop, _ in runs([at[frame] for frame in cached if frame not in exact])
        ),
        _pairs(((at[frame], exact[frame]) for frame in cached if frame in exact), size),
        _pairs(((exact[frame], call[frame]) for frame in new if frame in exact), size),
    )


def _pairs(frames: Iterable[tuple[int, int]], size: int) -> Pairs:
    """Slices of tokens on both sides, merged where frames are adjacent on both."""
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
        self.turning = Turning()
        self.written: tuple[int, KeysValues, Layer | None] | None = None

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
        # what is kept is normed; else the norm may wait, to be one pass with the rotation
        if norm is not None and (keep or not self.turning.joins(k_BLND, self.key_table, norm)):
            k_BLND, norm = norm_heads(norm, k_BLND), None
        new = k_BLND, v_BLND
        self.store.write(layer, self.rows, self.draft.at, x_BLC, new, keep, normed=norm is None)
        self.written = layer, new, norm

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        written, self.written = self.written, None  # not held while the rest of the layer runs
        if self.draft.layer_memory is not None:
            self.draft.place_memory(self.rows, self.draft.layer_memory(layer))
        given = (layer, self.rows, self.draft.at, self.key_table)
        if written is None or written[0] != layer:
            return self.store.read(*given, None)
        _, new, norm = written
        return self.store.read(*given, new, None if norm is None else partial(self.turning.rotate, norm=norm))

    def rotate(self, q_BLND: Tensor, norm: Layer | None = None) -> Tensor:
        return self.turning.rotate(q_BLND, self.query_table, norm)


class StoredFormat(ForAnyModel):
    """A format by its store; see `format.CacheFormat`."""

    @abstractmethod
    def store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> Store:
        """A new store for so many latent frames; the model is one that `why_not` accepts."""

    def empty(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> SlotCache:
        return SlotCache.empty(self._store(model, shape, frames, dtype, device))

    def restore(
        self,
        model: DiTTree,
        shape: CacheShape,
        table: tuple[int, ...],
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> SlotCache:
        # buffers without bytes say what the tensors of these frames are
        refuse_other(self._store(model, shape, len(table), dtype, torch.device("meta")), table, tensors)
        return SlotCache.restore(self._store(model, shape, len(table), dtype, device), table, tensors)

    def _store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> Store:
        if refusal := self.why_not(model):
            raise ValueError(refusal)
        return self.store(model, shape, frames, dtype, device)
