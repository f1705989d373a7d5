"""Formats that do not keep keys and values as they are: each layer has its codec, one workspace serves all.

B batch rows, L tokens, C channels of the model, N heads, D head width. A block's own keys and values reach
its calls as they are, frames of `Exact` too; those of all other frames are rebuilt layer by layer when read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...kernels.rope import rotate
from .shapes import CacheShape, Exact, KeysValues
from .slots import runs
from .store import Layout, Own, Place, Store

EXACT = "exact.kv"  # in a snapshot: keys and values of the frames kept as they are

Rooms = Mapping[str, Tensor]  # views of some rows and tokens [B, L, ...]


class Codec(Protocol):
    """How one layer keeps its tokens."""

    def rooms(self, rows: int, tokens: int) -> dict[str, Tensor]:
        """What is kept of so many tokens, each room [rows, tokens, ...]."""
        ...

    def encode(self, rooms: Rooms, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        """Keep these tokens; the arguments are those of `attention.past.Past.write`."""
        ...

    def rebuild(
        self, rooms: Rooms, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor, block: int
    ) -> None:
        """Write turned keys and values of these tokens; nothing else may be read from the two buffers.

        block: another number whenever the model's weights may have changed.
        """
        ...

    def beside(self) -> Sequence[Tensor]:
        """What it holds on the device beside its rooms."""
        ...


class CodedStore(Store):
    """Rooms of every layer by its codec, exact frames beside them, and one workspace of keys and values."""

    def __init__(
        self,
        shape: CacheShape,
        frames: int,
        dtype: torch.dtype,
        device: torch.device,
        codecs: Sequence[Codec],
        exact: Exact,
        *,
        keeps_exactly: bool = False,
    ) -> None:
        """codecs: one per layer; keeps_exactly: they round nothing, and keys and values are linear in what
        they keep."""
        assert len(codecs) == shape.layers and not (keeps_exactly and exact.slots)
        self.codecs, self.exact, self.keeps_exactly = codecs, exact, keeps_exactly
        self._names = [tuple(codec.rooms(0, 0)) for codec in codecs]
        super().__init__(shape, frames, dtype, device)
        sizes = (shape.layers, 2, shape.rows, exact.slots * shape.frame_tokens, shape.heads, shape.head_dim)
        self.exact_kv = torch.zeros(sizes, dtype=dtype, device=device)

    def make_rooms(self, tokens: int) -> dict[str, Tensor]:
        """The rooms of all codecs, named after their layers."""
        return {
            f"{layer}.{name}": room
            for layer, codec in enumerate(self.codecs)
            for name, room in codec.rooms(self.shape.rows, tokens).items()
        }

    def make_workspace(self, tokens: int) -> tuple[Tensor, ...]:
        """Turned keys, and values."""
        shape = self.shape
        sizes = (2, shape.rows, tokens, shape.heads, shape.head_dim)
        return torch.empty(sizes, dtype=self.dtype, device=self.device).unbind(0)

    @property
    def bytes(self) -> int:
        """Bytes of the rooms and of the exact frames."""
        return super().bytes + self.exact_kv.nbytes

    @property
    def beside_bytes(self) -> int:
        """Bytes of the workspace, the turn table, and what the codecs hold."""
        held = sum(tensor.nbytes for codec in self.codecs for tensor in codec.beside())
        return super().beside_bytes + held

    def write(self, layer: int, rows: slice, at: Layout, x_BLC: Tensor, own: Own, keep: bool) -> None:
        """Encode the call's own tokens where later blocks are to find them."""
        if not keep:
            return
        k_BLND, v_BLND = own
        for slots, tokens in at.own:
            given = x_BLC[:, tokens], k_BLND[:, tokens], v_BLND[:, tokens]
            self.codecs[layer].encode(self._views(layer, rows, slots), *given)
        for slots, tokens in at.own_exact:
            for room, given in zip(self.exact_kv[layer, :, rows, slots].unbind(0), own, strict=True):
                room.copy_(given[:, tokens])

    def read(
        self, layer: int, rows: slice, at: Layout, key_table: Tensor, own: Own | None
    ) -> tuple[Tensor, Tensor]:
        """Turned keys and values in the workspace: rebuilt, and as they are where those are at hand."""
        keys, values = (room[rows] for room in self.workspace)
        for slots in at.before if own is not None else (*at.before, *(slots for slots, _ in at.own)):
            self.codecs[layer].rebuild(
                self._views(layer, rows, slots),
                key_table[slots],
                keys[:, slots],
                values[:, slots],
                self.claimed,
            )
        exact_k, exact_v = self.exact_kv[layer, :, rows].unbind(0)
        given = [(exact_k, exact_v, at.exact)] + ([] if own is None else [(*own, at.own)])
        for k_BLND, v_BLND, pairs in given:
            for slots, tokens in pairs:
                rotate(k_BLND[:, tokens], key_table[slots], out=keys[:, slots])
                values[:, slots] = v_BLND[:, tokens]
        return keys[:, at.attended], values[:, at.attended]

    def keys_values(self, layer: int, places: Sequence[Place]) -> KeysValues:
        """Rebuilt, and as they are where those are at hand."""
        parts = [
            self._rebuilt(layer, self._views(layer, slice(None), tokens))
            if exact is None
            else self.exact_kv[layer, :, :, exact]
            for tokens, exact in places
        ]
        keys, values = torch.cat(parts, 2).unbind(0)
        return keys, values

    def _rebuilt(self, layer: int, rooms: Rooms) -> Tensor:
        """Keys before RoPE and values [2, R, L, N, D]."""
        shape, count = self.shape, next(iter(rooms.values())).shape[1]
        sizes = (2, shape.rows, count, shape.heads, shape.head_dim)
        made = torch.empty(sizes, dtype=self.dtype, device=self.device)
        unturned = torch.zeros(count, shape.head_dim // 2, 2, dtype=self._wide, device=self.device)
        unturned[..., 0] = 1
        self.codecs[layer].rebuild(rooms, unturned, made[0], made[1], self.claimed)
        return made

    @property
    def unrounded(self) -> Mapping[str, Tensor]:
        """All rooms, or the exact frames."""
        return self.rooms if self.keeps_exactly else {EXACT: self.exact_kv}

    def parts(self, rooms: Mapping[str, Tensor], layer: int) -> tuple[Tensor, ...]:
        """What the codec keeps, or keys and values."""
        if self.keeps_exactly:
            return tuple(rooms[f"{layer}.{name}"] for name in self._names[layer])
        return rooms[EXACT][layer].unbind(0)

    def taken_in(self, layer: int, place: Place) -> tuple[Tensor, ...]:
        """What the codec keeps, or keys and values, rebuilt where they are not at hand."""
        if self.keeps_exactly:
            return tuple(self._views(layer, slice(None), place[0]).values())
        return self.keys_values(layer, [place])

    def read_parts(self, layer: int, parts: tuple[Tensor, ...]) -> KeysValues:
        """Rebuilt, or as they are."""
        if self.keeps_exactly:
            rooms = dict(zip(self._names[layer], parts, strict=True))
            parts = self._rebuilt(layer, rooms).unbind(0)
        keys, values = parts
        return keys, values

    def saved(self, slots: Sequence[int], exact_slots: Sequence[int]) -> dict[str, Tensor]:
        """Rooms and exact frames."""
        kept = super().saved(slots, exact_slots)
        if exact_slots:
            size = self.shape.frame_tokens
            parts = [self.exact_kv[:, :, :, a * size : b * size] for a, b, _ in runs(exact_slots)]
            kept[EXACT] = torch.cat(parts, 3)
        return kept

    def put_back(
        self, slots: Sequence[int], exact_slots: Sequence[int], tensors: Mapping[str, Tensor]
    ) -> None:
        """Rooms and exact frames."""
        super().put_back(slots, exact_slots, tensors)
        size = self.shape.frame_tokens
        for start, stop, at in runs(exact_slots):
            part = tensors[EXACT][:, :, :, at * size : (at + stop - start) * size]
            self.exact_kv[:, :, :, start * size : stop * size] = part

    def _views(self, layer: int, rows: slice, tokens: slice) -> Rooms:
        return {name: self.rooms[f"{layer}.{name}"][rows, tokens] for name in self._names[layer]}


class PlainCodec:
    """Keys and values as they are, for a layer that no code suits."""

    def __init__(self, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.heads, self.head_dim, self.dtype, self.device = heads, head_dim, dtype, device

    def rooms(self, rows: int, tokens: int) -> dict[str, Tensor]:
        """Keys and values."""
        sizes = (rows, tokens, 2, self.heads, self.head_dim)
        return {"kv": torch.zeros(sizes, dtype=self.dtype, device=self.device)}

    def encode(self, rooms: Rooms, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        """Copy."""
        rooms["kv"][:, :, 0], rooms["kv"][:, :, 1] = k_BLND, v_BLND

    def rebuild(
        self, rooms: Rooms, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor, block: int
    ) -> None:
        """Turn and copy."""
        rotate(rooms["kv"][:, :, 0], table_L, out=keys_BLND)
        values_BLND.copy_(rooms["kv"][:, :, 1])

    def beside(self) -> Sequence[Tensor]:
        """Nothing."""
        return ()
