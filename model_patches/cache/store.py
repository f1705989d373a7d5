"""The buffers of a stream's caches, and the parts that all formats share.

R batch rows, S tokens per latent frame, L tokens, N heads, D head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ..attention.rope import rope_table
from ..transfer import copy_in_pieces, landing
from .shapes import NO_EXACT, CacheShape, KeysValues
from .slots import runs

Turn = Callable[..., Tensor]  # as `kernels.rope.rotate`: of (keys, table) into `out`
Pairs = tuple[tuple[slice, slice], ...]
Place = tuple[
    slice, slice | None
]  # in the buffers, and in the exact buffer where the tokens are kept there too


@dataclass(frozen=True, slots=True)
class Layout:
    """Slices of the tokens of a draft's frames in the buffers, the exact buffer and the call."""

    filled: slice  # in the buffers: all frames that the block attends to, from 0
    new: Pairs  # (in the buffers, in the call) of the block's frames
    cached: tuple[slice, ...]  # in the buffers, of cached frames without the exact ones
    exact: Pairs = ()  # (in the buffers, in the exact buffer) of those
    new_exact: Pairs = ()  # (in the exact buffer, in the call) of the block's frames that become exact
    memory: int = 0  # tokens behind the filled slots, in the workspace alone

    @property
    def attended(self) -> slice:
        """In the workspace: the filled slots and the memory."""
        return slice(self.filled.start, self.filled.stop + self.memory)


@dataclass(frozen=True, slots=True)
class FoldProgress:
    """The layers of the newest fold that are written; see `fold.Fold`."""

    claim: int = 0  # of the fold
    layer: int = 0  # all layers before this one are written
    result: tuple[Tensor, ...] | None = None  # being written to this layer


class Store(ABC):
    """The buffers of one stream's caches, and the workspace that reads of all layers share.

    A format defines its buffers, and how a layer's keys and values are written and read.
    """

    token_dim = 1  # token axis of every buffer
    lossless = False  # buffers store all frames unrounded; keys and values are linear in them
    exact = NO_EXACT
    workspace: tuple[Tensor, ...]

    def __init__(self, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device) -> None:
        """dtype: of keys and values, written and read."""
        self.shape, self.dtype, self.device = shape, dtype, device
        self.claimed = 0
        self.folds = 0
        self.fold_progress = FoldProgress()
        self.freed = False  # nothing is in it any more
        self.lock = Lock()  # held while a fold is written or its frames are read
        self.claims: list[int] = []
        self.exact_claims = [0] * self.exact.slots
        self.buffers: dict[str, Tensor] = {}
        self._allocate(frames)

    @abstractmethod
    def make_buffers(self, tokens: int) -> dict[str, Tensor]:
        """New buffers for so many tokens in all layers and rows, by names that a snapshot has."""

    @abstractmethod
    def make_workspace(self, tokens: int) -> tuple[Tensor, ...]:
        """New tensors for the read of one layer, shared by all layers."""

    @abstractmethod
    def write(
        self,
        layer: int,
        rows: slice,
        at: Layout,
        x_BLC: Tensor,
        new: KeysValues,
        keep: bool,
        normed: bool = True,
    ) -> None:
        """Write a call's tokens; see `attention.past.Past.write`.

        normed: False for keys that `read` will be given with a `turn`, of a call that is not kept.
        """

    @abstractmethod
    def read(
        self,
        layer: int,
        rows: slice,
        at: Layout,
        key_table: Tensor,
        new: KeysValues | None,
        turn: Turn | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(rotated keys, values) [B, L, N, D] of the filled slots and the memory, in the workspace or in
        place.

        new: the call's keys and values; None for a second read after one write. turn: for keys that are not
        normed, what norms and rotates them.
        """

    @property
    def bytes(self) -> int:
        """Bytes of the buffers."""
        return sum(buffer.nbytes for buffer in self.buffers.values())

    @property
    def workspace_bytes(self) -> int:
        """Bytes of the workspace and the rotation table."""
        return self._table.nbytes + sum(tensor.nbytes for tensor in self.workspace)

    def view_keys_values(self, layer: int, rows: slice, at: Layout) -> tuple[Tensor, Tensor]:
        """Keys before RoPE and values [B, L, N, D] of the filled slots, in place; dense stores only."""
        raise ValueError("Cache: keys of this format are decoded when read, not viewed; take format dense.")

    @abstractmethod
    def keys_values(self, layer: int, places: Sequence[Place]) -> KeysValues:
        """Keys before RoPE and values [R, L, N, D] of the tokens at these places, concatenated."""

    @property
    @abstractmethod
    def lossless_buffers(self) -> Mapping[str, Tensor]:
        """Buffers that store frames without rounding, by their names in `save`."""

    @abstractmethod
    def parts(self, buffers: Mapping[str, Tensor], layer: int) -> tuple[Tensor, ...]:
        """One layer's part [R, L, ...] of lossless buffers: keys and values, or tokens they are linear in."""

    @abstractmethod
    def parts_at(self, layer: int, place: Place) -> tuple[Tensor, ...]:
        """The tokens at a place, in the form of `parts`."""

    @abstractmethod
    def read_parts(self, layer: int, parts: tuple[Tensor, ...]) -> KeysValues:
        """Keys before RoPE and values [R, L, N, D] of the result of `parts` or `parts_at`."""

    @property
    def lossless_claims(self) -> list[int]:
        """Claims of the slots in the lossless buffers."""
        return self.claims if self.lossless else self.exact_claims

    @lossless_claims.setter
    def lossless_claims(self, claims: list[int]) -> None:
        if self.lossless:
            self.claims = claims
        else:
            self.exact_claims = claims

    def place_memory(self, at: Layout, rows: slice, memory: KeysValues, table: Tensor) -> None:
        """Write a memory's keys, turned, and values after the filled slots of the workspace, where no layer
        writes."""
        keys, values = memory
        behind = slice(at.filled.stop, at.attended.stop)
        rotate(keys[rows], table, out=self.workspace[0][rows, behind])
        self.workspace[1][rows, behind] = values[rows]

    def reserve(self, frames: int) -> None:
        """Allocate at least so many slots; frames in the present ones stay."""
        if frames > len(self.claims):
            self._allocate(max(frames, 2 * len(self.claims)))

    def _allocate(self, frames: int) -> None:
        tokens = frames * self.shape.frame_tokens
        buffers, workspace = self.make_buffers(tokens), self.make_workspace(tokens + self.shape.memory_tokens)
        table = torch.zeros(tokens, self.shape.head_dim // 2, 2, dtype=self._wide, device=self.device)
        for name, old in self.buffers.items():
            buffers[name].narrow(self.token_dim, 0, old.shape[self.token_dim]).copy_(old)
        # assigned only once all allocations have succeeded
        self.buffers, self.workspace, self._table = buffers, workspace, table
        self.claims = self.claims + [0] * (frames - len(self.claims))
        self._ids: list[int | None] = [None] * frames

    def move(self, device: torch.device) -> None:
        """Moves the frames there, bit for bit, and all caches over this store with them.

        Where it fails, all is where it was. Before that all bytes are on both devices, but for the workspace.
        """
        if device != self.device:
            with self.lock:
                self._move(device)

    def _move(self, device: torch.device) -> None:
        buffers = {name: buffer.to(device) for name, buffer in self.buffers.items()}
        workspace = tuple(torch.empty_like(tensor, device=device) for tensor in self.workspace)
        table, progress = torch.empty_like(self._table, device=device), self.fold_progress
        if progress.result is not None:
            result = tuple(part.to(device) for part in progress.result)
            progress = replace(progress, result=result)
        self.buffers, self.workspace, self._table = buffers, workspace, table
        self._ids = [None] * len(self._ids)
        self.device, self.fold_progress = device, progress

    def free(self) -> None:
        """Lets go of all its tensors; no cache over this store can be read or gone on with any more."""
        self.freed, self.buffers, self.workspace = True, {}, ()
        self._table, self.fold_progress = self._table.new_empty(0), FoldProgress()

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def claim(self, slots: Sequence[int], exact_slots: Sequence[int] = ()) -> int:
        """The number of the next write to these slots; caches with an older number are spent."""
        self.claimed += 1
        for slot in slots:
            self.claims[slot] = self.claimed
        for slot in exact_slots:
            self.exact_claims[slot] = self.claimed
        return self.claimed

    def copy_slots(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Write what is in some slots to others; what is kept exactly besides stays where it is."""
        for buffer in self.buffers.values():
            for old, new in zip(source, target, strict=True):
                into, part = (self._part(buffer, at, at + 1, self.token_dim) for at in (new, old))
                copy_in_pieces(into, part, self.token_dim)

    def number_fold(self) -> int:
        """Claim of the next fold; negative, unlike a block's, so that codecs do not read weights again."""
        self.folds += 1
        return -self.folds

    def rotation_table(self, ids: Sequence[int]) -> Tensor:
        """(cos, sin) of the first slots' keys, one id per slot; recomputed where an id changed."""
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

    def save(self, slots: Sequence[int], exact_slots: Sequence[int]) -> dict[str, Tensor]:
        """The tensors of these slots, in their order, on the CPU; no second copy on a card comes about.

        From a card the copies may still be under way: whoever reads them waits for it.
        """
        return {name: self._saved(buffer, slots, self.token_dim) for name, buffer in self.buffers.items()}

    def load(self, slots: Sequence[int], exact_slots: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of `save` to these slots, in the same order."""
        for name, buffer in self.buffers.items():
            self._load(buffer, slots, tensors[name], self.token_dim)

    def _saved(self, buffer: Tensor, slots: Sequence[int], token_dim: int) -> Tensor:
        """These slots of a buffer, in their order, on the CPU."""
        sizes = list(buffer.shape)
        sizes[token_dim] = len(slots) * self.shape.frame_tokens
        saved = landing(sizes, buffer.dtype, buffer.device)
        for start, stop, at in runs(slots):
            into = self._part(saved, at, at + stop - start, token_dim)
            copy_in_pieces(into, self._part(buffer, start, stop, token_dim), token_dim)
        return saved

    def _load(self, buffer: Tensor, slots: Sequence[int], saved: Tensor, token_dim: int) -> None:
        """Write the result of `_saved` to these slots of a buffer."""
        for start, stop, at in runs(slots):
            part = self._part(saved, at, at + stop - start, token_dim)
            copy_in_pieces(self._part(buffer, start, stop, token_dim), part, token_dim)

    def _part(self, buffer: Tensor, start: int, stop: int, token_dim: int) -> Tensor:
        """A view of the slots from `start` to before `stop`."""
        size = self.shape.frame_tokens
        return buffer.narrow(token_dim, start * size, (stop - start) * size)
