"""What self-attention asks of a past. B batch, L tokens, N heads, D head width, C channels of the model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ...kernels.rope import rotate


class Past(Protocol):
    """Keys and values that one call attends to; it takes in the call's own before it is read."""

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, *, keep: bool = True) -> None:
        """Take the keys (before RoPE) and values of the call, and the tokens they were projected from.

        keep: later blocks are to find them, so this is the last call for these tokens; otherwise only the
        read that follows needs them.
        """
        ...

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys at their positions and values, the call's own included; good until the next read."""
        ...

    def turn(self, q_BLND: Tensor) -> Tensor:
        """The call's queries at their positions."""
        ...


class Alone:
    """No past: every token of the call attends to every other, as a bidirectional model does."""

    def __init__(self, table_L: Tensor) -> None:
        """table_L: rope_table of the call's own tokens."""
        self.table_L = table_L

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, *, keep: bool = True) -> None:
        """Keep them until the read that follows."""
        self.own = (k_BLND, v_BLND)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """The call's own keys at their positions, and its values."""
        k_BLND, v_BLND = self.own
        return rotate(k_BLND, self.table_L), v_BLND

    def turn(self, q_BLND: Tensor) -> Tensor:
        """The call's queries at their positions."""
        return rotate(q_BLND, self.table_L)
