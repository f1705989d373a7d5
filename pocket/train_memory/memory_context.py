"""What a call of a rollout attends to: cached frames, the memory between them and the window, and itself.

R rows, S tokens per latent frame, K context tokens, L tokens of a call, M memory tokens, C channels, N heads,
D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ...model_patches.arch.parts import project_kv
from ...model_patches.arch.tree import DiTTree, Layer
from ...model_patches.attention.rope import layout_of, rope_table
from ...model_patches.attention.turning import norm_heads
from ...model_patches.cache.format import Call
from ..convert_mla.trainable_context import Grid
from ..train_pocket.teacher_forcing import unfused_attention


@dataclass(frozen=True, slots=True)
class FrameTokens:
    """One latent frame in one layer: what was projected [R, S, C], and keys and values [R, S, N, D] of it."""

    x: Tensor
    k: Tensor
    v: Tensor


@dataclass(slots=True)
class FrameCache:
    """The frames a rollout keeps, by layer."""

    frames: dict[int, list[FrameTokens]] = field(default_factory=dict)

    def concat(self, frames: Sequence[int], layer: int, part: str) -> Tensor:
        """One part of these frames' tokens, one after the other [R, K, ...]."""
        return torch.cat([getattr(self.frames[frame][layer], part) for frame in frames], 1)

    def append(self, frames: Sequence[int], by_layer: Sequence[FrameTokens]) -> None:
        """Add the frames of a clean pass, their tokens listed by layer."""
        for index, frame in enumerate(frames):
            self.frames[frame] = [
                FrameTokens(*(part.chunk(len(frames), 1)[index] for part in (tokens.x, tokens.k, tokens.v)))
                for tokens in by_layer
            ]

    def evict(self, keep: Sequence[int]) -> FrameTokens | None:
        """Drop all frames but these; the last layer's tokens of those dropped, None for none."""
        gone = sorted(set(self.frames) - set(keep))
        if not gone:
            return None
        last = len(self.frames[gone[0]]) - 1
        evicted = FrameTokens(*(self.concat(gone, last, part) for part in ("x", "k", "v")))
        for frame in gone:
            del self.frames[frame]
        return evicted


class MemoryContext:
    """See `attention.past.Past`. trainable: context tokens are projected anew, so that layers can learn."""

    def __init__(
        self,
        dit: DiTTree,
        cache: FrameCache,
        call: Call,
        grid: Grid,
        memory: tuple[Tensor, Tensor] | None = None,
        memory_ids: Sequence[int] = (),
        trainable: bool = False,
    ) -> None:
        """memory: keys before RoPE and values [R, M, N, D], the same for every layer."""
        self.dit, self.cache, self.call, self.trainable = dit, cache, call, trainable
        self.memory = memory if memory_ids else None
        ids = (*call.ids[: len(call.cached)], *memory_ids, *call.ids[len(call.cached) :])
        place = (grid.rows, grid.columns, grid.head_dim, grid.device)
        layout = layout_of(dit)
        self.key_table = rope_table(ids, *place, layout=layout)
        self.query_table = rope_table(call.query_ids, *place, layout=layout)
        self.by_layer: list[FrameTokens] = []  # the call's tokens, of a pass that is kept

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
        self.new = (k_BLND, v_BLND)
        if keep:
            self.by_layer.append(FrameTokens(x_BLC, k_BLND, v_BLND))

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        parts = [self.new]
        if self.memory is not None:
            parts.insert(0, self.memory)
        if self.call.cached:
            parts.insert(0, self._cached(layer))
        keys, values = (torch.cat([part[i].to(self.new[i].dtype) for part in parts], 1) for i in (0, 1))
        return rotate(keys, self.key_table), values

    def rotate(self, q_BLND: Tensor, norm: Layer | None = None) -> Tensor:
        return rotate(norm_heads(norm, q_BLND), self.query_table)

    def _cached(self, layer: int) -> tuple[Tensor, Tensor]:
        frames = self.call.cached
        if self.trainable:
            return project_kv(self.dit.blocks[layer].self_attn, self.cache.concat(frames, layer, "x"))
        return self.cache.concat(frames, layer, "k"), self.cache.concat(frames, layer, "v")


def unfused_sdpa(q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
    """`unfused_attention` for the engine's layout."""
    return unfused_attention(*(t.transpose(1, 2) for t in (q_BLND, k_BLND, v_BLND))).transpose(1, 2)
