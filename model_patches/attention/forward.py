"""Wan's forward over cached frames. B batch, C channels, T latent frames, H/W of the latent, L tokens."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..arch.parts import (
    Residual,
    cross_attention,
    embed_time,
    head_forward,
    modulation_vectors,
    patchify,
    plain_tensor,
    project_kv,
    residual_block,
    split_heads,
    unpatchify,
)
from ..arch.tree import DiTTree, Layer
from .past import NoPast, Past
from .rope import layout_of, rope_table
from .sdpa import Attention, sdpa
from .text import TextRows, read_text

Time = tuple[Tensor, Tensor]  # `embed_time`: modulation of the blocks [B, T, 6, C] and of the head [B, T, C]


def forward(
    dit: DiTTree, x_BCTHW: Tensor, time: Time, text: TextRows, past: Past, attention: Attention = sdpa
) -> Tensor:
    """Flow [B, C, T, H, W] of noisy latents that attend to `past` and to each other.

    time: one entry per latent frame, or a single one for all. Nothing is stored for later blocks.
    """
    tokens_BLC, grid = patchify(dit, x_BCTHW)
    residual = Residual(tokens_BLC)
    del tokens_BLC  # the first sum takes their place
    for layer in range(len(dit.blocks)):
        _layer(dit, layer, residual, time, text, past, attention, keep=False)
    return unpatchify(dit, head_forward(dit, residual, time[1]), grid)


def write_past(
    dit: DiTTree, x_BCTHW: Tensor, time: Time, text: TextRows, past: Past, attention: Attention = sdpa
) -> tuple[Tensor, Tensor]:
    """Write every layer's keys and values to `past`; return the last layer's [B, L, N, D], before RoPE.

    The same as `forward` up to the last layer's keys and values; no flow is computed.
    """
    residual = Residual(patchify(dit, x_BCTHW)[0])
    last = len(dit.blocks) - 1
    for layer in range(last):
        _layer(dit, layer, residual, time, text, past, attention, keep=True)
    block = dit.blocks[last]
    shift_BTC, scale_BTC, *_ = modulation_vectors(block, time[0])
    x_BLC = residual.normed(block.norm1, shift_BTC, scale_BTC)
    k_BLND, v_BLND = project_kv(block.self_attn, x_BLC)
    past.write(last, x_BLC, k_BLND, v_BLND)
    return k_BLND, v_BLND


def forward_bidirectional(
    dit: DiTTree, x_BCTHW: Tensor, timesteps_BT: Tensor, text_BLE: Tensor, attention: Attention = sdpa
) -> Tensor:
    """Flow [B, C, T, H, W] of a full clip in one call, each frame with its timestep in 0..1000.

    Every frame attends to every other, frame i at position i, as in Wan before causal distillation.
    """
    frames, height, width = (
        size // step for size, step in zip(x_BCTHW.shape[2:], dit.patch_size, strict=True)
    )
    text = read_text(dit, (text_BLE,)).groups[0]
    head_dim, device = text.kv.shape[-1], x_BCTHW.device
    table = rope_table(range(frames), height, width, head_dim, device, layout=layout_of(dit))
    time = embed_time(dit, timesteps_BT, x_BCTHW.dtype, device=device)
    return forward(dit, x_BCTHW, time, text, NoPast(table), attention)


def _layer(
    dit: DiTTree,
    layer: int,
    residual: Residual,
    time: Time,
    text: TextRows,
    past: Past,
    attention: Attention,
    keep: bool,
) -> None:
    block = dit.blocks[layer]
    keys, values = text.layer(layer)

    def self_attention(h_BLC: Tensor) -> Tensor:
        layers = block.self_attn

        def heads(project: Layer) -> Tensor:
            return split_heads(layers, plain_tensor(project(h_BLC)))

        q = past.rotate(heads(layers.q), layers.norm_q)
        # nothing here holds what is normed in there
        past.write(layer, h_BLC, heads(layers.k), heads(layers.v), keep=keep, norm=layers.norm_k)
        return layers.o(attention(q, *past.read(layer)).flatten(2))

    def attend_text(q_BLND: Tensor) -> Tensor:
        return attention(q_BLND, keys, values)

    cross = partial(cross_attention, block.cross_attn, cross=attend_text)
    residual_block(block, residual, time[0], self_attention, cross)
