"""The store of formats that encode keys and values: a codec per layer, one workspace for all layers.

B batch rows, L tokens, C channels of the model, N heads, D head width. A call reads its new keys and values
unchanged, and those of exact frames; all other frames are decoded layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...kernels.rope import rotate
from .shapes import CacheShape, Exact, KeysValues
from .slots import runs
from .store import Layout, Place, Store

EXACT = "exact.kv"  # in a snapshot: keys and values of the exact frames

Buffers = Mapping[str, Tensor]  # views of some rows and tokens [B, L, ...]


class Codec(Protocol):
    """Encodes and decodes the tokens of one layer."""

    def buffers(self, rows: int, tokens: int) -> dict[str, Tensor]:
        """New buffers for so many tokens, each [rows, tokens, ...], by names that a snapshot has."""
        ...

    def encode(self, buffers: Buffers, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        """Write these tokens to the buffers; arguments as in `attention.past.Past.write`."""
        ...

    def rebuild(
        self, buffers: Buffers, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor, block: int
    ) -> None:
        """Write rotated keys and values of these tokens to `keys_BLND` and `values_BLND`.

        block: another number whenever the model's weights may have changed.
        """
        ...

    def weights(self) -> Sequence[Tensor]:
        """Tensors on the device besides the buffers, such as projections."""
        ...


class CodedStore(Store):
    """Buffers of every layer's codec, exact frames besides, and one workspace of keys and values."""

    def __init__(
        self,
        shape: CacheShape,
        frames: int,
        dtype: torch.dtype,
        device: torch.device,
        codecs: Sequence[Codec],
        exact: Exact,
        *,
        lossless: bool = False,
    ) -> None:
        """codecs: one per layer. lossless: they round nothing, and keys and values are linear in their
        buffers."""
        assert len(codecs) == shape.layers and not (lossless and exact.slots)
        self.codecs, self.exact, self.lossless = codecs, exact, lossless
        self._names = [tuple(codec.buffers(0, 0)) for codec in codecs]
        super().__init__(shape, frames, dtype, device)
        sizes = (shape.layers, 2, shape.rows, exact.slots * shape.frame_tokens, shape.heads, shape.head_dim)
        self.exact_kv = torch.zeros(sizes, dtype=dtype, device=device)

    def make_buffers(self, tokens: int) -> dict[str, Tensor]:
        return {
            f"{layer}.{name}": buffer
            for layer, codec in enumerate(self.codecs)
            for name, buffer in codec.buffers(self.shape.rows, tokens).items()
        }

    def make_workspace(self, tokens: int) -> tuple[Tensor, ...]:
        shape = self.shape
        sizes = (2, shape.rows, tokens, shape.heads, shape.head_dim)
        return torch.empty(sizes, dtype=self.dtype, device=self.device).unbind(0)

    @property
    def bytes(self) -> int:
        """Bytes of the buffers and of the exact frames."""
        return super().bytes + self.exact_kv.nbytes

    @property
    def workspace_bytes(self) -> int:
        """Bytes of the workspace, the rotation table and the codecs' weights."""
        held = sum(tensor.nbytes for codec in self.codecs for tensor in codec.weights())
        return super().workspace_bytes + held

    def write(self, layer: int, rows: slice, at: Layout, x_BLC: Tensor, new: KeysValues, keep: bool) -> None:
        if not keep:
            return
        k_BLND, v_BLND = new
        for slots, tokens in at.new:
            given = x_BLC[:, tokens], k_BLND[:, tokens], v_BLND[:, tokens]
            self.codecs[layer].encode(self._views(layer, rows, slots), *given)
        for slots, tokens in at.new_exact:
            for buffer, given in zip(self.exact_kv[layer, :, rows, slots].unbind(0), new, strict=True):
                buffer.copy_(given[:, tokens])

    def read(
        self, layer: int, rows: slice, at: Layout, key_table: Tensor, new: KeysValues | None
    ) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[rows] for buffer in self.workspace)
        for slots in at.cached if new is not None else (*at.cached, *(slots for slots, _ in at.new)):
            self.codecs[layer].rebuild(
                self._views(layer, rows, slots),
                key_table[slots],
                keys[:, slots],
                values[:, slots],
                self.claimed,
            )
        exact_k, exact_v = self.exact_kv[layer, :, rows].unbind(0)
        given = [(exact_k, exact_v, at.exact)] + ([] if new is None else [(*new, at.new)])
        for k_BLND, v_BLND, pairs in given:
            for slots, tokens in pairs:
                rotate(k_BLND[:, tokens], key_table[slots], out=keys[:, slots])
                values[:, slots] = v_BLND[:, tokens]
        return keys[:, at.attended], values[:, at.attended]

    def keys_values(self, layer: int, places: Sequence[Place]) -> KeysValues:
        parts = [
            self._rebuilt(layer, self._views(layer, slice(None), tokens))
            if exact is None
            else self.exact_kv[layer, :, :, exact]
            for tokens, exact in places
        ]
        keys, values = torch.cat(parts, 2).unbind(0)
        return keys, values

    def _rebuilt(self, layer: int, buffers: Buffers) -> Tensor:
        """Keys before RoPE and values [2, R, L, N, D]."""
        shape, count = self.shape, next(iter(buffers.values())).shape[1]
        sizes = (2, shape.rows, count, shape.heads, shape.head_dim)
        made = torch.empty(sizes, dtype=self.dtype, device=self.device)
        no_rotation = torch.zeros(count, shape.head_dim // 2, 2, dtype=self._wide, device=self.device)
        no_rotation[..., 0] = 1
        self.codecs[layer].rebuild(buffers, no_rotation, made[0], made[1], self.claimed)
        return made

    @property
    def lossless_buffers(self) -> Mapping[str, Tensor]:
        return self.buffers if self.lossless else {EXACT: self.exact_kv}

    def parts(self, buffers: Mapping[str, Tensor], layer: int) -> tuple[Tensor, ...]:
        if self.lossless:
            return tuple(buffers[f"{layer}.{name}"] for name in self._names[layer])
        return buffers[EXACT][layer].unbind(0)

    def parts_at(self, layer: int, place: Place) -> tuple[Tensor, ...]:
        if self.lossless:
            return tuple(self._views(layer, slice(None), place[0]).values())
        return self.keys_values(layer, [place])

    def read_parts(self, layer: int, parts: tuple[Tensor, ...]) -> KeysValues:
        if self.lossless:
            buffers = dict(zip(self._names[layer], parts, strict=True))
            parts = self._rebuilt(layer, buffers).unbind(0)
        keys, values = parts
        return keys, values

    def save(self, slots: Sequence[int], exact_slots: Sequence[int]) -> dict[str, Tensor]:
        """Buffers and exact frames."""
        kept = super().save(slots, exact_slots)
        if exact_slots:
            size = self.shape.frame_tokens
            parts = [self.exact_kv[:, :, :, a * size : b * size] for a, b, _ in runs(exact_slots)]
            kept[EXACT] = torch.cat(parts, 3)
        return kept

    def load(self, slots: Sequence[int], exact_slots: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """Buffers and exact frames."""
        super().load(slots, exact_slots, tensors)
        size = self.shape.frame_tokens
        for start, stop, at in runs(exact_slots):
            part = tensors[EXACT][:, :, :, at * size : (at + stop - start) * size]
            self.exact_kv[:, :, :, start * size : stop * size] = part

    def _views(self, layer: int, rows: slice, tokens: slice) -> Buffers:
        return {name: self.buffers[f"{layer}.{name}"][rows, tokens] for name in self._names[layer]}


class PlainCodec:
    """Keys and values unchanged, for a layer that loses too much in other formats."""

    def __init__(self, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.heads, self.head_dim, self.dtype, self.device = heads, head_dim, dtype, device

    def buffers(self, rows: int, tokens: int) -> dict[str, Tensor]:
        sizes = (rows, tokens, 2, self.heads, self.head_dim)
        return {"kv": torch.zeros(sizes, dtype=self.dtype, device=self.device)}

    def encode(self, buffers: Buffers, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        buffers["kv"][:, :, 0], buffers["kv"][:, :, 1] = k_BLND, v_BLND

    def rebuild(
        self, buffers: Buffers, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor, block: int
    ) -> None:
        rotate(buffers["kv"][:, :, 0], table_L, out=keys_BLND)
        values_BLND.copy_(buffers["kv"][:, :, 1])

    def weights(self) -> Sequence[Tensor]:
        return ()
