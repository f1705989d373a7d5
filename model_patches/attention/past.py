"""The interface between self-attention and the cache, for one call of the model.

B batch, L tokens, N heads, D head width, C channels of the model.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..arch.tree import Layer
from .turning import Turning


class Past(Protocol):
    """Keys and values that one call attends to: each layer has its queries turned, writes its tokens, then
    reads all."""

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
        """Write the call's keys (before RoPE), its values, and the tokens they were projected from.

        norm: of the keys, over the channels of all heads; None: they are normed.
        keep: store them for later blocks; this is the last call for these tokens. False: only the next read
        of this layer needs them.
        """
        ...

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Rotated keys and values [B, L, N, D], the call's included; valid until the next read."""
        ...

    def rotate(self, q_BLND: Tensor, norm: Layer | None = None) -> Tensor:
        """The call's queries [B, L, N, D] after RoPE.

        norm: over the channels of all heads, that comes before; None: they are normed.
        """
        ...


class NoPast:
    """No cached frames: every token of the call attends to every other, as in a bidirectional model."""

    def __init__(self, table_L: Tensor) -> None:
        """table_L: `rope_table` of the call's tokens."""
        self.table_L, self.turning = table_L, Turning()

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
        self.new = (k_BLND, v_BLND, norm)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        k_BLND, v_BLND, norm = self.new
        return self.turning.rotate(k_BLND, self.table_L, norm), v_BLND

    def rotate(self, q_BLND: Tensor, norm: Layer | None = None) -> Tensor:
        return self.turning.rotate(q_BLND, self.table_L, norm)
