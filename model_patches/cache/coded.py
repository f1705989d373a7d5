"""The store of formats that encode keys and values: a codec per layer, one workspace for all layers.

B batch rows, L tokens, C channels of the model, N heads, D head width. A call reads its new keys and values
unchanged, and those of exact frames; all other frames are decoded layer by layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from typing import TypeVar

import torch
from torch import Tensor

from ...kernels.rope import rotate
from .shapes import CacheShape, Exact, KeysValues
from .store import Layout, Pairs, Place, Store, Turn

EXACT = "exact.kv"  # in a snapshot: keys and values of the exact frames
EXACT_TOKEN_DIM = 3  # token axis of their buffer

Buffers = Mapping[str, Tensor]  # views of some rows and tokens [B, L, ...]


Same = TypeVar("Same", bound="Codec")


class Codec(ABC):
    """Encodes and decodes the tokens of one layer."""

    device: torch.device  # of its buffers

    @abstractmethod
    def buffers(self, rows: int, tokens: int) -> dict[str, Tensor]:
        """New buffers for so many tokens, each [rows, tokens, ...], by names that a snapshot has."""

    @abstractmethod
    def encode(self, buffers: Buffers, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        """Write these tokens to the buffers; arguments as in `attention.past.Past.write`."""

    @abstractmethod
    def rebuild(self, buffers: Buffers, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor) -> None:
        """Write rotated keys and values of these tokens to `keys_BLND` and `values_BLND`."""

    def weights(self) -> Sequence[Tensor]:
        """Tensors on the device besides the buffers, such as projections."""
        return ()

    def on(self: Same, device: torch.device) -> Same:
        """The same codec with its tensors there."""
        moved = copy(self)
        moved.device = device
        return moved

    def is_current(self) -> Tensor | bool:
        """Whether it decodes with the layer's weights as they are; a tensor [] where the device must tell."""
        return True

    def read_weights(self) -> None:
        """Reads what of the layer's weights it decodes with; only called where `is_current` says no."""
        raise AssertionError(f"{type(self).__name__} decodes with no weights of the layer")


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
        self._read_for = -1  # claim at which the codecs' weights were last compared
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
        self,
        layer: int,
        rows: slice,
        at: Layout,
        key_table: Tensor,
        new: KeysValues | None,
        turn: Turn | None = None,
    ) -> tuple[Tensor, Tensor]:
        self._follow_weights()
        keys, values = (buffer[rows] for buffer in self.workspace)
        for slots in at.cached if new is not None else (*at.cached, *(slots for slots, _ in at.new)):
            buffers = self._views(layer, rows, slots)
            self.codecs[layer].rebuild(buffers, key_table[slots], keys[:, slots], values[:, slots])
        exact_k, exact_v = self.exact_kv[layer, :, rows].unbind(0)
        given: list[tuple[Turn, Tensor, Tensor, Pairs]] = [(rotate, exact_k, exact_v, at.exact)]
        if new is not None:
            given.append((turn or rotate, *new, at.new))
        for rotated, k_BLND, v_BLND, pairs in given:
            for slots, tokens in pairs:
                rotated(k_BLND[:, tokens], key_table[slots], out=keys[:, slots])
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
        self._follow_weights()
        self.codecs[layer].rebuild(buffers, no_rotation, made[0], made[1])
        return made

    def _follow_weights(self) -> None:
        """Has the codecs read weights that were changed; once a block, and the host waits but once for all
        layers.
        """
        if self._read_for == self.claimed:
            return
        answers = [codec.is_current() for codec in self.codecs]
        asked = [answer for answer in answers if isinstance(answer, Tensor)]
        told = iter(torch.stack(asked).tolist() if asked else ())
        for codec, answer in zip(self.codecs, answers, strict=True):
            if not (next(told) if isinstance(answer, Tensor) else answer):
                codec.read_weights()
        self._read_for = self.claimed

    def _move(self, device: torch.device) -> None:
        exact_kv, codecs = self.exact_kv.to(device), [codec.on(device) for codec in self.codecs]
        super()._move(device)
        self.exact_kv, self.codecs = exact_kv, codecs

    def free(self) -> None:
        super().free()
        self.exact_kv, self.codecs = self.exact_kv.new_empty(0), ()

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
            kept[EXACT] = self._saved(self.exact_kv, exact_slots, EXACT_TOKEN_DIM)
        return kept

    def load(self, slots: Sequence[int], exact_slots: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """Buffers and exact frames."""
        super().load(slots, exact_slots, tensors)
        if exact_slots:
            self._load(self.exact_kv, exact_slots, tensors[EXACT], EXACT_TOKEN_DIM)

    def _views(self, layer: int, rows: slice, tokens: slice) -> Buffers:
        return {name: self.buffers[f"{layer}.{name}"][rows, tokens] for name in self._names[layer]}


class PlainCodec(Codec):
    """Keys and values unchanged, for a layer that loses too much in other formats."""

    def __init__(self, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.heads, self.head_dim, self.dtype, self.device = heads, head_dim, dtype, device

    def buffers(self, rows: int, tokens: int) -> dict[str, Tensor]:
        sizes = (rows, tokens, 2, self.heads, self.head_dim)
        return {"kv": torch.zeros(sizes, dtype=self.dtype, device=self.device)}

    def encode(self, buffers: Buffers, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        buffers["kv"][:, :, 0], buffers["kv"][:, :, 1] = k_BLND, v_BLND

    def rebuild(self, buffers: Buffers, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor) -> None:
        rotate(buffers["kv"][:, :, 0], table_L, out=keys_BLND)
        values_BLND.copy_(buffers["kv"][:, :, 1])
