"""Wan's forward over a given past. B batch, C channels, T latent frames, H/W of the latent, L tokens."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..arch.parts import (
    cross_attention,
    embed_time,
    head_forward,
    modulate,
    modulation_vectors,
    patchify,
    project_kv,
    project_qkv,
    residual_block,
    unpatchify,
)
from ..arch.tree import DiTTree
from .past import Alone, Past
from .rope import layout_of, rope_table
from .sdpa import Attention, sdpa
from .text import TextRows, read_text

Time = tuple[Tensor, Tensor]  # embed_time's vectors, for the blocks [B, T, 6, C] and for the head [B, T, C]


def forward(
    dit: DiTTree, x_BCTHW: Tensor, time: Time, text: TextRows, past: Past, attention: Attention = sdpa
) -> Tensor:
    """Flow [B, C, T, H, W] of noisy latents that attend to `past` and to each other.

    time: of each latent frame, or of one frame for all. The past need not keep this call's keys and values.
    """
    x_BLC, grid = patchify(dit, x_BCTHW)
    for layer in range(len(dit.blocks)):
        x_BLC = _layer(dit, layer, x_BLC, time, text, past, attention, keep=False)
    return unpatchify(dit, head_forward(dit, x_BLC, time[1]), grid)


def remember(
    dit: DiTTree, x_BCTHW: Tensor, time: Time, text: TextRows, past: Past, attention: Attention = sdpa
) -> tuple[Tensor, Tensor]:
    """Keys and values [B, L, N, D] of the last layer, before RoPE; the past keeps those of every layer.

    `forward` without its flow: the last layer ends where its keys and values are made.
    """
    x_BLC, _ = patchify(dit, x_BCTHW)
    last = len(dit.blocks) - 1
    for layer in range(last):
        x_BLC = _layer(dit, layer, x_BLC, time, text, past, attention, keep=True)
    block = dit.blocks[last]
    shift_BTC, scale_BTC, *_ = modulation_vectors(block, time[0])
    x_BLC = modulate(block.norm1(x_BLC), shift_BTC, scale_BTC)
    k_BLND, v_BLND = project_kv(block.self_attn, x_BLC)
    past.write(last, x_BLC, k_BLND, v_BLND)
    return k_BLND, v_BLND


def bidirectional(
    dit: DiTTree, x_BCTHW: Tensor, timesteps_BT: Tensor, text_BLE: Tensor, attention: Attention = sdpa
) -> Tensor:
    """Flow [B, C, T, H, W] of a whole clip at once, each frame at its own timestep in 0..1000.

    Every frame attends to every other, frame i at position i: the model as it was before it became causal.
    """
    frames, height, width = (
        size // step for size, step in zip(x_BCTHW.shape[2:], dit.patch_size, strict=True)
    )
    text = read_text(dit, (text_BLE,)).groups[0]
    head_dim, device = text.kv.shape[-1], x_BCTHW.device
    table = rope_table(range(frames), height, width, head_dim, device, layout=layout_of(dit))
    time = embed_time(dit, timesteps_BT, x_BCTHW.dtype)
    return forward(dit, x_BCTHW, time, text, Alone(table), attention)


def _layer(
    dit: DiTTree,
    layer: int,
    x_BLC: Tensor,
    time: Time,
    text: TextRows,
    past: Past,
    attention: Attention,
    keep: bool,
) -> Tensor:
    block = dit.blocks[layer]
    keys, values = text.layer(layer)

    def mix(h_BLC: Tensor) -> Tensor:
        q, k, v = project_qkv(block.self_attn, h_BLC)
        past.write(layer, h_BLC, k, v, keep=keep)
        return block.self_attn.o(attention(past.turn(q), *past.read(layer)).flatten(2))

    def look(q_BLND: Tensor) -> Tensor:
        return attention(q_BLND, keys, values)

    return residual_block(block, x_BLC, time[0], mix, partial(cross_attention, block.cross_attn, cross=look))
