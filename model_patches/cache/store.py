"""The bytes behind a stream's caches: what all formats share of them.

R batch rows, S tokens per latent frame, L tokens, N heads, D head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ..attention.rope import rope_table
from .shapes import NO_EXACT, CacheShape, KeysValues
from .slots import runs

Own = tuple[Tensor, Tensor]  # keys before RoPE and values of a call [B, L, N, D]


Pairs = tuple[tuple[slice, slice], ...]
Place = tuple[slice, slice | None]  # in the rooms, and in the exact room where the tokens are kept there too


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a draft's frames lie, in the rooms of one row and elsewhere."""

    filled: slice  # in the rooms: all that the block attends to, from the beginning
    own: Pairs  # (in the rooms, in the call) of the block's own frames
    before: tuple[slice, ...]  # in the rooms, of frames kept from before, the exact ones left out
    exact: Pairs = ()  # (in the rooms, in the exact room) of those
    own_exact: Pairs = ()  # (in the exact room, in the call) of the block's own that will be exact
    memory: int = 0  # tokens behind the filled slots, in the workspace alone

    @property
    def attended(self) -> slice:
        """In the workspace: the filled slots and the memory."""
        return slice(self.filled.start, self.filled.stop + self.memory)


@dataclass(frozen=True, slots=True)
class Settling:
    """How far the newest fold has been written; see `fold.Fold`."""

    claim: int = 0  # of the fold
    layer: int = 0  # those before it hold it
    made: tuple[Tensor, ...] | None = None  # what this layer is being given


class Store(ABC):
    """The bytes behind one stream's caches, and the room to read them in, which all layers share.

    A format says what its rooms are and how a layer's keys and values go in and come out.
    """

    token_dim = 1  # of every room: where its tokens are counted
    keeps_exactly = False  # whether the rooms hold all frames unrounded, keys and values linear in them
    exact = NO_EXACT

    def __init__(self, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device) -> None:
        """dtype: what keys and values are given in and given back in."""
        self.shape, self.dtype, self.device = shape, dtype, device
        self.claimed = 0
        self.folds = 0
        self.settling = Settling()
        self.lock = Lock()  # while a fold is written, or frames that it changes are read
        self.claims: list[int] = []
        self.exact_claims = [0] * self.exact.slots
        self.rooms: dict[str, Tensor] = {}
        self._allocate(frames)

    @abstractmethod
    def make_rooms(self, tokens: int) -> dict[str, Tensor]:
        """What is kept of so many tokens in all layers and rows, by names that go into a snapshot."""

    @abstractmethod
    def make_workspace(self, tokens: int) -> tuple[Tensor, ...]:
        """What one layer needs to be read, whichever it is."""

    @abstractmethod
    def write(self, layer: int, rows: slice, at: Layout, x_BLC: Tensor, own: Own, keep: bool) -> None:
        """Take a call's own tokens; see `attention.past.Past.write`."""

    @abstractmethod
    def read(
        self, layer: int, rows: slice, at: Layout, key_table: Tensor, own: Own | None
    ) -> tuple[Tensor, Tensor]:
        """(turned keys, values) [B, L, N, D] of the filled slots and the memory, in the workspace or in
        place.

        own: what was last written for this layer; None where it was read since.
        """

    @property
    def bytes(self) -> int:
        """Bytes of the rooms."""
        return sum(room.nbytes for room in self.rooms.values())

    @property
    def beside_bytes(self) -> int:
        """Bytes of the workspace and the turn table."""
        return self._table.nbytes + sum(tensor.nbytes for tensor in self.workspace)

    def unturned(self, layer: int, rows: slice, at: Layout) -> tuple[Tensor, Tensor]:
        """Keys before RoPE and values [B, L, N, D] of the filled slots, in place, where they are kept so."""
        raise ValueError("Cache: keys of this format are rebuilt when read; take format dense to have them.")

    @abstractmethod
    def keys_values(self, layer: int, places: Sequence[Place]) -> KeysValues:
        """Keys before RoPE and values [R, L, N, D] of the tokens at these places, one after another."""

    @property
    @abstractmethod
    def unrounded(self) -> Mapping[str, Tensor]:
        """Rooms in which frames are kept without rounding, by the names that `saved` has for them."""

    @abstractmethod
    def parts(self, rooms: Mapping[str, Tensor], layer: int) -> tuple[Tensor, ...]:
        """One layer's part [R, L, ...] of such rooms: keys and values, or what those are linear in."""

    @abstractmethod
    def taken_in(self, layer: int, place: Place) -> tuple[Tensor, ...]:
        """The tokens at a place as `parts` has them."""

    @abstractmethod
    def read_parts(self, layer: int, parts: tuple[Tensor, ...]) -> KeysValues:
        """Keys before RoPE and values [R, L, N, D] of what `parts` or `taken_in` gave."""

    @property
    def unrounded_claims(self) -> list[int]:
        """Claims of the slots in those rooms."""
        return self.claims if self.keeps_exactly else self.exact_claims

    @unrounded_claims.setter
    def unrounded_claims(self, claims: list[int]) -> None:
        if self.keeps_exactly:
            self.claims = claims
        else:
            self.exact_claims = claims

    def place_memory(self, at: Layout, memory: KeysValues, ids: Sequence[int]) -> None:
        """Put a memory behind the filled slots of the workspace, where no layer writes."""
        keys, values = memory
        behind = slice(at.filled.stop, at.attended.stop)
        rotate(keys, self.angles(ids), out=self.workspace[0][:, behind])
        self.workspace[1][:, behind] = values

    def reserve(self, frames: int) -> None:
        """Have at least so many slots; what lies in the present ones stays."""
        if frames > len(self.claims):
            self._allocate(max(frames, 2 * len(self.claims)))

    def _allocate(self, frames: int) -> None:
        tokens = frames * self.shape.frame_tokens
        rooms, workspace = self.make_rooms(tokens), self.make_workspace(tokens + self.shape.memory_tokens)
        table = torch.zeros(tokens, self.shape.head_dim // 2, 2, dtype=self._wide, device=self.device)
        for name, old in self.rooms.items():
            rooms[name].narrow(self.token_dim, 0, old.shape[self.token_dim]).copy_(old)
        # nothing is taken over before everything has found room
        self.rooms, self.workspace, self._table = rooms, workspace, table
        self.claims = self.claims + [0] * (frames - len(self.claims))
        self._ids: list[int | None] = [None] * frames

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def claim(self, slots: Sequence[int], exact_slots: Sequence[int] = ()) -> int:
        """Number under which these slots are written from here on; tables with an older number are spent."""
        self.claimed += 1
        for slot in slots:
            self.claims[slot] = self.claimed
        for slot in exact_slots:
            self.exact_claims[slot] = self.claimed
        return self.claimed

    def number_fold(self) -> int:
        """Claim of the next fold; below 0, as no block has it: a codec need not ask for its weights again."""
        self.folds += 1
        return -self.folds

    def turn_table(self, ids: Sequence[int]) -> Tensor:
        """(cos, sin) of the keys of the first slots, one id a slot; angles are made where the id changed."""
        size = self.shape.frame_tokens
        changed = [slot for slot, place in enumerate(ids) if self._ids[slot] != place]
        for start, stop, _ in runs(changed):
            self._ids[start:stop] = [None] * (stop - start)
            self._table[start * size : stop * size] = self.angles(ids[start:stop])
            self._ids[start:stop] = ids[start:stop]
        return self._table[: len(ids) * size]

    def angles(self, ids: Sequence[int]) -> Tensor:
        """(cos, sin) of whole frames at these ids, in float64 for a float64 stream, else float32."""
        shape = self.shape
        grid = (shape.grid_height, shape.grid_width)
        return rope_table(ids, *grid, shape.head_dim, self.device, self._wide, shape.rope)

    def saved(self, slots: Sequence[int], exact_slots: Sequence[int]) -> dict[str, Tensor]:
        """What the rooms hold of these slots, in their order."""
        kept: dict[str, Tensor] = {}
        for name, room in self.rooms.items():
            parts = [self._part(room, start, stop) for start, stop, _ in runs(slots)]
            kept[name] = torch.cat(parts, self.token_dim) if parts else self._part(room, 0, 0).clone()
        return kept

    def put_back(
        self, slots: Sequence[int], exact_slots: Sequence[int], tensors: Mapping[str, Tensor]
    ) -> None:
        """Undo `saved`: the same tokens into slots of the same order."""
        for name, room in self.rooms.items():
            for start, stop, at in runs(slots):
                self._part(room, start, stop).copy_(self._part(tensors[name], at, at + stop - start))

    def _part(self, room: Tensor, start: int, stop: int) -> Tensor:
        size = self.shape.frame_tokens
        return room.narrow(self.token_dim, start * size, (stop - start) * size)
