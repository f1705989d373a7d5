"""A cache's past as the host's attention functions expect it. B batch, L tokens, N heads, D head width."""

from __future__ import annotations

from typing import Any

import torch
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...model_patches.arch.tree import Layer
from ...model_patches.attention.past import Past
from ...model_patches.attention.sdpa import Attention
from ...model_patches.attention.turning import norm_heads
from ...model_patches.cache.core import SlotPast


def host_attention(options: dict[str, Any]) -> Attention:
    """The host's attention with the user's choice in it (`optimized_attention_override`)."""

    def attend(q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        heads = q_BLND.shape[2]
        flat = (x.flatten(2) for x in (q_BLND, k_BLND, v_BLND))
        return optimized_attention(*flat, heads=heads, transformer_options=options).unflatten(2, (heads, -1))

    return attend


class LayerNamed:
    """A past that tells the host's options which layer runs; attention overrides may choose by it."""

    def __init__(self, past: Past, options: dict[str, Any]) -> None:
        self.past, self.options = past, options

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
        """Writes after naming the layer in the options."""
        self.options["block_index"] = layer
        self.past.write(layer, x_BLC, k_BLND, v_BLND, keep=keep, norm=norm)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.past.read(layer)

    def rotate(self, q_BLND: Tensor, norm: Layer | None = None) -> Tensor:
        return self.past.rotate(q_BLND, norm)


class HostRotated:
    """A dense past turned by the host's own rotation, to compare with its sampler to the last bit."""

    def __init__(self, past: SlotPast) -> None:
        """past: of a cache that keeps keys as they are; only those are the host's own."""
        self.past, self.store = past, past.store
        self.key_turns = rotation_matrices(past.key_table)
        self.query_turns = rotation_matrices(past.query_table)

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
        self.past.write(layer, x_BLC, norm_heads(norm, k_BLND), v_BLND, keep=keep)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys at their positions, and values."""
        keys, values = self.store.view_keys_values(layer, self.past.rows, self.past.draft.at)
        return apply_rope1(keys, self.key_turns), values

    def rotate(self, q_BLND: Tensor, norm: Layer | None = None) -> Tensor:
        """The call's queries at their positions."""
        return apply_rope1(norm_heads(norm, q_BLND), self.query_turns)


def rotation_matrices(table_L: Tensor) -> Tensor:
    """Rotation matrices [1, L, 1, D/2, 2, 2] of a (cos, sin) table."""
    cos, sin = table_L.unbind(-1)
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))[None, :, None]
