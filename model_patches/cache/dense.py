"""The format that stores keys and values unchanged, in the compute dtype.

R batch rows, L tokens, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ..arch.tree import DiTTree
from .core import StoredFormat
from .cost import DENSE_COST, CacheCost
from .kind import CacheKind
from .shapes import NO_EXACT, CacheShape, Exact, KeysValues
from .store import Layout, Place, Store, Turn


class DenseStore(Store):
    """Keys after their norm and before RoPE, and values: one buffer [layers, 2, R, L, N, D]."""

    token_dim = 3
    lossless = True

    @property
    def kv(self) -> Tensor:
        return self.buffers["kv"]

    def make_buffers(self, tokens: int) -> dict[str, Tensor]:
        shape = self.shape
        sizes = (shape.layers, 2, shape.rows, tokens, shape.heads, shape.head_dim)
        return {"kv": torch.zeros(sizes, dtype=self.dtype, device=self.device)}

    def make_workspace(self, tokens: int) -> tuple[Tensor, ...]:
        """Rotated keys; with a memory also values, which are read in place otherwise."""
        shape = self.shape
        sizes = (2 if shape.memory_tokens else 1, shape.rows, tokens, shape.heads, shape.head_dim)
        return torch.empty(sizes, dtype=self.dtype, device=self.device).unbind(0)

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
        sides = list(zip(self.view_keys_values(layer, rows, at), new, strict=True))
        for buffer, x_BLND in sides if normed else sides[1:]:
            for slots, tokens in at.new:
                buffer[:, slots] = x_BLND[:, tokens]

    def read(
        self,
        layer: int,
        rows: slice,
        at: Layout,
        key_table: Tensor,
        new: KeysValues | None,
        turn: Turn | None = None,
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.view_keys_values(layer, rows, at)
        rotated = self.workspace[0][rows, at.filled]
        if new is None or turn is None:
            rotate(keys, key_table, out=rotated)
        else:
            for slots in at.cached:
                rotate(keys[:, slots], key_table[slots], out=rotated[:, slots])
            for slots, tokens in at.new:
                turn(new[0][:, tokens], key_table[slots], out=rotated[:, slots])
        if not at.memory:
            return rotated, values
        self.workspace[1][rows, at.filled] = values
        keys, values = (buffer[rows, at.attended] for buffer in self.workspace)
        return keys, values

    def keys_values(self, layer: int, places: Sequence[Place]) -> KeysValues:
        keys, values = torch.cat([self.kv[layer, :, :, tokens] for tokens, _ in places], 2).unbind(0)
        return keys, values

    @property
    def lossless_buffers(self) -> Mapping[str, Tensor]:
        return self.buffers

    def parts(self, buffers: Mapping[str, Tensor], layer: int) -> tuple[Tensor, ...]:
        return buffers["kv"][layer].unbind(0)

    def parts_at(self, layer: int, place: Place) -> tuple[Tensor, ...]:
        return self.kv[layer, :, :, place[0]].unbind(0)

    def read_parts(self, layer: int, parts: tuple[Tensor, ...]) -> KeysValues:
        keys, values = parts
        return keys, values

    def view_keys_values(self, layer: int, rows: slice, at: Layout) -> tuple[Tensor, Tensor]:
        keys, values = self.kv[layer, :, rows, at.filled].unbind(0)
        return keys, values


@dataclass(frozen=True, slots=True)
class DenseFormat(StoredFormat):
    """Every layer dense."""

    name: str = "dense"

    @property
    def cost(self) -> CacheCost:
        return DENSE_COST

    def store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> DenseStore:
        return DenseStore(shape, frames, dtype, device)

    def spec(self) -> dict[str, object]:
        return {"name": self.name}


DENSE = DenseFormat()


@dataclass(frozen=True)
class DenseKind(CacheKind):
    """See `DenseFormat`."""

    def why_not(self, model: DiTTree) -> str | None:
        return None

    def cost(self, model: DiTTree) -> CacheCost:
        return DENSE_COST

    def build(self, model: DiTTree, exact: Exact = NO_EXACT, source: Any = None) -> DenseFormat:
        return DENSE


KIND = DenseKind("dense", "keys and values as they are", rounds=False)
