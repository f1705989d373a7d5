"""Queries and keys normed and turned: in one pass where the kernel runs, else by the norm and a rotation.

B batch, L tokens, N heads, D head width, C = N*D channels of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.norm_rope import norm_rope, runs_kernel
from ...kernels.rope import rotate
from ..arch.effective import PROBE, gain_of, only_scales
from ..arch.parts import plain_rms_eps, plain_tensor
from ..arch.tree import Layer


class Turning:
    """RoPE of the calls that share one past, with the norm before it.

    A norm's gain is what the norm answers to a probe, once for all these calls: in whatever way a host keeps
    or patches its weight, it is asked for again with the next past, and no two answers are compared.
    """

    def __init__(self) -> None:
        self._gains: dict[Layer, Tensor] = {}
        self._probe_11C: Tensor | None = None

    def rotate(
        self, x_BLND: Tensor, table_L: Tensor, norm: Layer | None = None, out: Tensor | None = None
    ) -> Tensor:
        """x after the norm over the channels of all heads, where there is one, and RoPE.

        table: `rope_table` of the tokens. out: written and returned; None: a new tensor.
        """
        if norm is None:
            return rotate(x_BLND, table_L, out=out)
        if (known := self._known(x_BLND, table_L, norm)) is None:
            return rotate(norm_heads(norm, x_BLND), table_L, out=out)
        gain_C, eps = known
        return norm_rope(x_BLND, gain_C, table_L, eps, out=out)

    def joins(self, x_BLND: Tensor, table_L: Tensor, norm: Layer) -> bool:
        """Whether `rotate` is one pass with this norm."""
        return self._known(x_BLND, table_L, norm) is not None

    def _known(self, x_BLND: Tensor, table_L: Tensor, norm: Layer) -> tuple[Tensor, float] | None:
        """(gain [C], eps) of a norm that one pass can stand for."""
        eps = plain_rms_eps(norm, x_BLND.shape[2] * x_BLND.shape[3])
        if eps is None or not runs_kernel(x_BLND, table_L):
            return None
        gain_C = self._gain(norm, x_BLND)
        # a norm that answers in a wider dtype hands that on
        known = gain_C.dtype == x_BLND.dtype and only_scales(norm, gain_C, eps)
        return (gain_C, eps) if known else None

    def _gain(self, norm: Layer, like_BLND: Tensor) -> Tensor:
        if norm not in self._gains:
            if self._probe_11C is None:
                sizes = (1, 1, like_BLND.shape[2] * like_BLND.shape[3])
                self._probe_11C = torch.full(sizes, PROBE, dtype=like_BLND.dtype, device=like_BLND.device)
            self._gains[norm] = gain_of(norm, self._probe_11C)
        return self._gains[norm]


def norm_heads(norm: Layer | None, x_BLND: Tensor) -> Tensor:
    """x after the norm over the channels of all heads together; None: x is normed."""
    return x_BLND if norm is None else plain_tensor(norm(x_BLND.flatten(2))).unflatten(2, x_BLND.shape[2:])
