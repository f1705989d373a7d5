"""Some of a cache's frames and a call's own, read side by side: where a call does not attend to all that is
cached.

B batch, R rows of the cache, L tokens, N heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arch.tree import Layer
from ..attention.past import Past
from ..attention.rope import rope_table
from ..attention.turning import Turning, norm_heads
from .format import Cache, Call


class ChosenPast:
    """The frames a call sees, and its own behind them; see `attention.past.Past`.

    Nothing is written to the cache: it can be read while a draft over it is open, and stays as it is.
    """

    def __init__(
        self, cache: Cache, call: Call, dtype: torch.dtype, rows: slice, keeps: Past | None = None
    ) -> None:
        """dtype: of keys and values. keeps: gets what is to be kept for later blocks; None: nothing is."""
        self.cache, self.seen, self.rows, self.keeps = cache, call.seen, rows, keeps
        self.key_table, self.query_table = (_angles(cache, ids, dtype) for ids in (call.ids, call.query_ids))
        self.turning = Turning()

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
        k_BLND = norm_heads(norm, k_BLND)
        if self.keeps is not None:
            self.keeps.write(layer, x_BLC, k_BLND, v_BLND, keep=keep)
        self.new = k_BLND, v_BLND

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        keys_BLND, values_BLND = self.new
        if self.seen:
            past = (x_RLND[self.rows] for x_RLND in self.cache.keys_values(layer, self.seen))
            keys_BLND, values_BLND = (torch.cat(pair, 1) for pair in zip(past, self.new, strict=True))
        return self.turning.rotate(keys_BLND, self.key_table), values_BLND

    def rotate(self, q_BLND: Tensor, norm: Layer | None = None) -> Tensor:
        return self.turning.rotate(q_BLND, self.query_table, norm)


def _angles(cache: Cache, ids: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """(cos, sin) of whole frames at these ids, in float64 for a float64 stream, else float32."""
    shape, wide = cache.shape, torch.promote_types(dtype, torch.float32)
    grid = shape.grid_height, shape.grid_width
    return rope_table(ids, *grid, shape.head_dim, cache.device, wide, shape.rope)
