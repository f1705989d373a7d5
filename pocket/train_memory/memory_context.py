"""What a call of a walk attends to: kept frames, the memory between them and the window, and itself.

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
from ...model_patches.arch.tree import DiTTree
from ...model_patches.attention.rope import layout_of, rope_table
from ...model_patches.cache.format import Call
from ..convert_mla.trainable_context import Grid
from ..train_pocket.teacher_forcing import attend


@dataclass(frozen=True, slots=True)
class Tokens:
    """One latent frame in one layer: what was projected [R, S, C], and keys and values [R, S, N, D] of it."""

    x: Tensor
    k: Tensor
    v: Tensor


@dataclass(slots=True)
class Kept:
    """The frames a walk keeps, by layer."""

    frames: dict[int, list[Tokens]] = field(default_factory=dict)

    def window(self, frames: Sequence[int], layer: int, part: str) -> Tensor:
        """One part of these frames' tokens, joined [R, K, ...]."""
        return torch.cat([getattr(self.frames[frame][layer], part) for frame in frames], 1)

    def take(self, own: Sequence[int], made: Sequence[Tokens]) -> None:
        """Add the frames of a clean pass, whose tokens are given by layer."""
        for index, frame in enumerate(own):
            self.frames[frame] = [
                Tokens(*(part.chunk(len(own), 1)[index] for part in (each.x, each.k, each.v)))
                for each in made
            ]

    def leave(self, kept: Sequence[int]) -> Tokens | None:
        """Drop all frames but these; the last layer's tokens of those dropped, None for none."""
        gone = sorted(set(self.frames) - set(kept))
        if not gone:
            return None
        last = len(self.frames[gone[0]]) - 1
        evicted = Tokens(*(self.window(gone, last, part) for part in ("x", "k", "v")))
        for frame in gone:
            del self.frames[frame]
        return evicted


class WalkPast:
    """See `attention.past.Past`. taught: the context is projected anew, so that its layers can learn."""

    def __init__(
        self,
        dit: DiTTree,
        kept: Kept,
        call: Call,
        grid: Grid,
        memory: tuple[Tensor, Tensor] | None = None,
        memory_ids: Sequence[int] = (),
        taught: bool = False,
    ) -> None:
        """memory: keys before RoPE and values [R, M, N, D], the same for every layer."""
        self.dit, self.kept, self.call, self.taught = dit, kept, call, taught
        self.memory = memory if memory_ids else None
        ids = (*call.ids[: len(call.kept)], *memory_ids, *call.ids[len(call.kept) :])
        place = (grid.rows, grid.columns, grid.head_dim, grid.device)
        layout = layout_of(dit)
        self.key_table = rope_table(ids, *place, layout=layout)
        self.query_table = rope_table(call.query_ids, *place, layout=layout)
        self.made: list[Tokens] = []

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, *, keep: bool = True) -> None:
        """Take the call's own."""
        self.own = (k_BLND, v_BLND)
        if keep:
            self.made.append(Tokens(x_BLC, k_BLND, v_BLND))

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Turned keys and values: context, memory, the call's own."""
        parts = [self.own]
        if self.memory is not None:
            parts.insert(0, self.memory)
        if self.call.kept:
            parts.insert(0, self._context(layer))
        keys, values = (torch.cat([part[i].to(self.own[i].dtype) for part in parts], 1) for i in (0, 1))
        return rotate(keys, self.key_table), values

    def turn(self, q_BLND: Tensor) -> Tensor:
        """The call's queries at their positions."""
        return rotate(q_BLND, self.query_table)

    def _context(self, layer: int) -> tuple[Tensor, Tensor]:
        frames = self.call.kept
        if self.taught:
            return project_kv(self.dit.blocks[layer].self_attn, self.kept.window(frames, layer, "x"))
        return self.kept.window(frames, layer, "k"), self.kept.window(frames, layer, "v")


def written_out(q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
    """Attention as `pocket.train_pocket.teacher` writes it, for the engine's layout."""
    return attend(*(t.transpose(1, 2) for t in (q_BLND, k_BLND, v_BLND))).transpose(1, 2)
