"""The parts of Wan's forward that are the same for every attention, as functions over any tree of its names.

B batch, T latent frames, H/W rows and columns of the latent, S tokens per latent frame, L = T*S tokens,
C channels of the model, N heads, D head width. Layers are called, their weights are never read: a host may
keep them offloaded, quantised or patched. A parameter that is no layer (`modulation`) is cast where used.
Where a host's parameters are of a class of their own, torch hands it on to all that is made with them; what
comes out of a layer or a parameter that may be such goes through `plain_tensor`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .tree import AttentionTree, BlockTree, DiTTree

Cross = Callable[[Tensor], Tensor]  # q [B, L, N, D] -> out of the same shape, over the text


def plain_tensor(x: Tensor) -> Tensor:
    """A view of the same numbers as a tensor of torch's own class.

    Classes that stand for packed weights answer `clone`, `shape` or `new_empty` in ways of their own, which
    are wrong for what a model computes.
    """
    return x if type(x) is Tensor else x.as_subclass(Tensor)


def sinusoid(timesteps: Tensor, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Cosines then sines of each timestep [..., width], angles and all in `dtype`; timesteps in 0..1000."""
    half = width // 2
    ladder = torch.arange(half, dtype=dtype, device=timesteps.device) / half
    angles = timesteps.to(dtype)[..., None] * torch.pow(10000.0, -ladder)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def embed_time(
    dit: DiTTree,
    timesteps_BT: Tensor,
    dtype: torch.dtype = torch.float32,
    angles: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """(modulation_BT6C for the blocks, time_BTC for the head), one timestep in 0..1000 per latent frame.

    angles: what the sinusoid is computed in; Wan's published code takes float64, ComfyUI float32.
    """
    time_BTC = dit.time_embedding(sinusoid(timesteps_BT, dit.freq_dim, angles).to(dtype))
    return dit.time_projection(time_BTC).unflatten(-1, (6, -1)), time_BTC


def embed_text(dit: DiTTree, text_BLE: Tensor) -> Tensor:
    """Text in the model's width [B, L, C] from the text encoder's [B, L, text_dim]."""
    return dit.text_embedding(text_BLE)


def patchify(dit: DiTTree, x_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """(tokens [B, L, C] in frame, row, column order; their grid (frames, rows, columns))."""
    tokens = plain_tensor(dit.patch_embedding(x_BCTHW))
    # as a view they would stay transposed through every layer, and each operation would read across memory
    return tokens.flatten(2).transpose(1, 2).contiguous(), (tokens.shape[2], tokens.shape[3], tokens.shape[4])


def unpatchify(dit: DiTTree, x_BLP: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Latents [B, C, T, H, W] from tokens whose channels are (frame, row, column, channel) of a patch."""
    (t, h, w), (pt, ph, pw) = grid, dit.patch_size
    x = x_BLP.unflatten(-1, (pt, ph, pw, -1)).unflatten(1, (t, h, w))
    x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
    return x.reshape(x.shape[0], x.shape[1], t * pt, h * ph, w * pw)


def modulate(x_BLC: Tensor, shift_BTC: Tensor, scale_BTC: Tensor) -> Tensor:
    """x * (1 + scale) + shift, frame by frame."""
    x_BTSC = x_BLC.unflatten(1, (shift_BTC.shape[1], -1))
    return torch.addcmul(shift_BTC[:, :, None], x_BTSC, 1 + scale_BTC[:, :, None]).flatten(1, 2)


def gate(x_BLC: Tensor, update_BLC: Tensor, gate_BTC: Tensor) -> Tensor:
    """x + update * gate, frame by frame."""
    frames = gate_BTC.shape[1]
    x_BTSC, update_BTSC = x_BLC.unflatten(1, (frames, -1)), update_BLC.unflatten(1, (frames, -1))
    return torch.addcmul(x_BTSC, update_BTSC, gate_BTC[:, :, None]).flatten(1, 2)


def split_heads(attention: AttentionTree, x_BLC: Tensor) -> Tensor:
    """[B, L, N, D] view of [B, L, C]."""
    return x_BLC.unflatten(-1, (attention.num_heads, -1))


def project_qkv(attention: AttentionTree, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised q and k, and v, each [B, L, N, D], before RoPE."""
    q = plain_tensor(attention.norm_q(attention.q(x_BLC)))
    return split_heads(attention, q), *project_kv(attention, x_BLC)


def project_kv(attention: AttentionTree, x_BLC: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised k, and v, each [B, L, N, D], before RoPE; of text all that a cross-attention needs."""
    k = plain_tensor(attention.norm_k(attention.k(x_BLC)))
    return split_heads(attention, k), split_heads(attention, attention.v(x_BLC))


def modulation_vectors(block: BlockTree, modulation_BT6C: Tensor) -> tuple[Tensor, ...]:
    """(shift, scale, gate) [B, T, C] of the self-attention, then of the feed-forward, of one block."""
    return (plain_tensor(block.modulation).to(modulation_BT6C)[:, None] + modulation_BT6C).unbind(2)


def residual_block(
    block: BlockTree,
    x_BLC: Tensor,
    modulation_BT6C: Tensor,
    mix: Callable[[Tensor], Tensor],
    cross: Callable[[Tensor], Tensor],
) -> Tensor:
    """One block [B, L, C]. mix: its self-attention, of the modulated tokens. cross: its cross-attention, of
    the tokens after norm3."""
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation_vectors(block, modulation_BT6C)
    x_BLC = gate(x_BLC, mix(modulate(block.norm1(x_BLC), shift1, scale1)), gate1)
    x_BLC = x_BLC + cross(block.norm3(x_BLC))
    return gate(x_BLC, block.ffn(modulate(block.norm2(x_BLC), shift2, scale2)), gate2)


def cross_attention(attention: AttentionTree, x_BLC: Tensor, cross: Cross) -> Tensor:
    """What the tokens read from the text, through the layers of one cross-attention."""
    q_BLND = split_heads(attention, plain_tensor(attention.norm_q(attention.q(x_BLC))))
    return attention.o(cross(q_BLND).flatten(2))


def head_forward(dit: DiTTree, x_BLC: Tensor, time_BTC: Tensor) -> Tensor:
    """Flow of each token's patch [B, L, patch*out_channels]."""
    own = plain_tensor(dit.head.modulation).to(time_BTC)[:, None]
    shift_BTC, scale_BTC = (own + time_BTC[:, :, None]).unbind(2)
    return dit.head.head(modulate(dit.head.norm(x_BLC), shift_BTC, scale_BTC))
