"""The format that keeps keys and values as they are, in the compute dtype.

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
from .store import Layout, Own, Place, Store


class DenseStore(Store):
    """Keys after their norm and before RoPE, and values: one room [layers, 2, R, L, N, D]."""

    token_dim = 3
    keeps_exactly = True

    @property
    def kv(self) -> Tensor:
        """Keys and values of all layers and slots."""
        return self.rooms["kv"]

    def make_rooms(self, tokens: int) -> dict[str, Tensor]:
        """Keys and values."""
        shape = self.shape
        sizes = (shape.layers, 2, shape.rows, tokens, shape.heads, shape.head_dim)
        return {"kv": torch.zeros(sizes, dtype=self.dtype, device=self.device)}

    def make_workspace(self, tokens: int) -> tuple[Tensor, ...]:
        """Turned keys; values are read in place, or copied where a memory is to stand behind them."""
        shape = self.shape
        sizes = (2 if shape.memory_tokens else 1, shape.rows, tokens, shape.heads, shape.head_dim)
        return torch.empty(sizes, dtype=self.dtype, device=self.device).unbind(0)

    def write(self, layer: int, rows: slice, at: Layout, x_BLC: Tensor, own: Own, keep: bool) -> None:
        """Put the call's keys and values into its slots."""
        for room, given in zip(self.unturned(layer, rows, at), own, strict=True):
            for slots, tokens in at.own:
                room[:, slots] = given[:, tokens]

    def read(
        self, layer: int, rows: slice, at: Layout, key_table: Tensor, own: Own | None
    ) -> tuple[Tensor, Tensor]:
        """Keys at their positions, in the room all layers share, and values."""
        keys, values = self.unturned(layer, rows, at)
        turned = rotate(keys, key_table, out=self.workspace[0][rows, at.filled])
        if not at.memory:
            return turned, values
        self.workspace[1][rows, at.filled] = values
        keys, values = (room[rows, at.attended] for room in self.workspace)
        return keys, values

    def keys_values(self, layer: int, places: Sequence[Place]) -> KeysValues:
        """Copies."""
        keys, values = torch.cat([self.kv[layer, :, :, tokens] for tokens, _ in places], 2).unbind(0)
        return keys, values

    @property
    def unrounded(self) -> Mapping[str, Tensor]:
        """All."""
        return self.rooms

    def parts(self, rooms: Mapping[str, Tensor], layer: int) -> tuple[Tensor, ...]:
        """Keys and values."""
        return rooms["kv"][layer].unbind(0)

    def taken_in(self, layer: int, place: Place) -> tuple[Tensor, ...]:
        """In place."""
        return self.kv[layer, :, :, place[0]].unbind(0)

    def read_parts(self, layer: int, parts: tuple[Tensor, ...]) -> KeysValues:
        """As they are."""
        keys, values = parts
        return keys, values

    def unturned(self, layer: int, rows: slice, at: Layout) -> tuple[Tensor, Tensor]:
        """Keys before RoPE and values [B, L, N, D] of the filled slots, in place."""
        keys, values = self.kv[layer, :, rows, at.filled].unbind(0)
        return keys, values


@dataclass(frozen=True, slots=True)
class DenseFormat(StoredFormat):
    """Nothing is lost and nothing is saved."""

    name: str = "dense"

    @property
    def cost(self) -> CacheCost:
        """Two numbers a channel."""
        return DENSE_COST

    def store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> DenseStore:
        """New bytes for so many latent frames."""
        return DenseStore(shape, frames, dtype, device)

    def spec(self) -> dict[str, object]:
        """Its name says all."""
        return {"name": self.name}


DENSE = DenseFormat()


@dataclass(frozen=True)
class DenseKind(CacheKind):
    """See `DenseFormat`."""

    def why_not(self, model: DiTTree) -> str | None:
        """Every model can be kept so."""
        return None

    def cost(self, model: DiTTree) -> CacheCost:
        """Two numbers a channel."""
        return DENSE_COST

    def build(self, model: DiTTree, exact: Exact = NO_EXACT, source: Any = None) -> DenseFormat:
        """The one there is."""
        return DENSE


KIND = DenseKind("dense", "keys and values as they are", rounds=False)
