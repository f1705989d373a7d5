"""A context of inputs: its keys and values are projected anew in each call, so that they can be learnt.

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
from ...model_patches.arch.tree import AttentionTree, DiTTree, Layer
from ...model_patches.attention.rope import layout_of, rope_table
from ...model_patches.attention.sdpa import Attention, sdpa
from ...model_patches.attention.turning import norm_heads
from ...model_patches.cache.format import Call


@dataclass(frozen=True, slots=True)
class Grid:
    """Where tokens stand."""

    rows: int  # of tokens, of a frame
    columns: int
    head_dim: int
    device: torch.device


class ContextInputs:
    """What the self-attentions' projections were given for the frames a stream keeps."""

    def __init__(self) -> None:
        self.frames: dict[int, list[Tensor]] = {}  # latent frame -> by layer [R, S, C]

    def tokens(self, frames: Sequence[int], layer: int) -> Tensor | None:
        """Tokens [R, K, C] of these frames, None for none."""
        return torch.cat([self.frames[f][layer] for f in frames], 1) if frames else None

    def append(self, call: Call, by_layer: Sequence[Tensor], keep: Sequence[int]) -> None:
        """Add the call's frames, their tokens [R, L, C] listed by layer; drop all frames but `keep`."""
        split = [x.detach().chunk(len(call.new), 1) for x in by_layer]
        self.frames |= {frame: [x[i] for x in split] for i, frame in enumerate(call.new)}
        self.frames = {frame: self.frames[frame] for frame in keep}


class TrainableContext:
    """See `attention.past.Past`; gradients reach the projections of the context, not what made its inputs."""

    def __init__(self, dit: DiTTree, inputs: ContextInputs, call: Call, grid: Grid) -> None:
        self.dit, self.inputs, self.call, self.grid = dit, inputs, call, grid
        layout = layout_of(dit)
        place = (grid.rows, grid.columns, grid.head_dim, grid.device)
        self.key_table = rope_table(call.ids, *place, layout=layout)
        self.query_table = rope_table(call.query_ids, *place, layout=layout)
        self.projected: list[Tensor] = []  # the call's tokens [R, L, C] by layer

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
        self.projected.append(x_BLC)
        k_BLND = norm_heads(norm, k_BLND)
        self.new = (k_BLND, v_BLND)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.keys_values(self.dit.blocks[layer].self_attn, layer, *self.new)

    def rotate(self, q_BLND: Tensor, norm: Layer | None = None) -> Tensor:
        return rotate(norm_heads(norm, q_BLND), self.query_table)

    def keys_values(
        self, attention: AttentionTree, layer: int, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rotated keys and values [R, K + L, N, D], context first, by the layers of `attention`."""
        context = self.inputs.tokens(self.call.cached, layer)
        if context is not None:
            context_k, context_v = project_kv(attention, context)
            k, v = torch.cat([context_k, k], 1), torch.cat([context_v, v], 1)
        return rotate(k, self.key_table), v


def run_attention(
    attention: AttentionTree, context: TrainableContext, layer: int, product: Attention = sdpa
) -> Tensor:
    """What an attention makes [R, L, C] of the inputs that a context holds of a layer, whosever they were."""
    q, k, v = project_qkv(attention, context.projected[layer])
    return attention.o(product(context.rotate(q), *context.keys_values(attention, layer, k, v)).flatten(2))


@contextmanager
def record_outputs(dit: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Collects what every self-attention gives, layer by layer, while it lasts."""
    outputs: list[Tensor] = []
    hooks = [
        block.self_attn.o.register_forward_hook(lambda _layer, _inputs, out: outputs.append(out))
        for block in dit.blocks
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
