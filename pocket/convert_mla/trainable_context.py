"""A past made of inputs: context keys and values are projected anew in each call, so that they can be learnt.

R rows, S tokens per latent frame, K context tokens, L tokens of a call, C channels, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ...model_patches.arch.parts import project_kv, project_qkv
from ...model_patches.arch.tree import AttentionTree, DiTTree
from ...model_patches.attention.rope import layout_of, rope_table
from ...model_patches.attention.sdpa import Attention, sdpa
from ...model_patches.cache.format import Call


@dataclass(frozen=True, slots=True)
class Grid:
    """Where tokens stand."""

    rows: int  # of tokens, of a frame
    columns: int
    head_dim: int
    device: torch.device


class Inputs:
    """What the self-attentions' projections were given for the frames a stream keeps."""

    def __init__(self) -> None:
        self.frames: dict[int, list[Tensor]] = {}  # latent frame -> by layer [R, S, C]

    def window(self, frames: Sequence[int], layer: int) -> Tensor | None:
        """Tokens [R, K, C] of these frames, None for none."""
        return torch.cat([self.frames[f][layer] for f in frames], 1) if frames else None

    def take(self, call: Call, own: Sequence[Tensor], kept: Sequence[int]) -> None:
        """Add the call's own frames, whose tokens [R, L, C] are given by layer; keep only `kept`."""
        split = [x.detach().chunk(len(call.own), 1) for x in own]
        self.frames |= {frame: [x[i] for x in split] for i, frame in enumerate(call.own)}
        self.frames = {frame: self.frames[frame] for frame in kept}


class TaughtPast:
    """See `attention.past.Past`; gradients reach the projections of the context, not what made its inputs."""

    def __init__(self, dit: DiTTree, inputs: Inputs, call: Call, grid: Grid) -> None:
        self.dit, self.inputs, self.call, self.grid = dit, inputs, call, grid
        layout = layout_of(dit)
        place = (grid.rows, grid.columns, grid.head_dim, grid.device)
        self.key_table = rope_table(call.ids, *place, layout=layout)
        self.query_table = rope_table(call.query_ids, *place, layout=layout)
        self.own: list[Tensor] = []  # by layer, what was projected

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, *, keep: bool = True) -> None:
        """Take the call's own."""
        self.own.append(x_BLC)
        self.made = (k_BLND, v_BLND)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Turned keys and values, context first."""
        return self.joined(self.dit.blocks[layer].self_attn, layer, *self.made)

    def turn(self, q_BLND: Tensor) -> Tensor:
        """The call's queries at their positions."""
        return rotate(q_BLND, self.query_table)

    def joined(self, attention: AttentionTree, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Turned keys and values [R, K + L, N, D], the context's made by the given attention's layers."""
        context = self.inputs.window(self.call.kept, layer)
        if context is not None:
            past_k, past_v = project_kv(attention, context)
            k, v = torch.cat([past_k, k], 1), torch.cat([past_v, v], 1)
        return rotate(k, self.key_table), v


def attend(attention: AttentionTree, past: TaughtPast, layer: int, attention_of: Attention = sdpa) -> Tensor:
    """What an attention makes [R, L, C] of the inputs that `past` holds of a layer, whosever they were."""
    q, k, v = project_qkv(attention, past.own[layer])
    return attention.o(attention_of(past.turn(q), *past.joined(attention, layer, k, v)).flatten(2))


@contextmanager
def outputs_of(dit: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Collects what every self-attention gives, layer by layer, while it lasts."""
    found: list[Tensor] = []
    hooks = [
        block.self_attn.o.register_forward_hook(lambda _layer, _given, out: found.append(out))
        for block in dit.blocks
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
