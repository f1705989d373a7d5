"""The parts of Wan's forward that are the same for every attention, as functions over any tree of its names.

B batch, T latent frames, H/W rows and columns of the latent, S tokens per latent frame, L = T*S tokens,
C channels of the model, N heads, D head width. Layers are called, their weights are never read: a host may
keep them offloaded, quantised or patched; a LayerNorm that has none is an operation of `kernels/`. A
parameter that is no layer (`modulation`) is cast where used.
Where a host's parameters are of a class of their own, torch hands it on to all that is made with them; what
comes out of a layer or a parameter that may be such goes through `plain_tensor`.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...kernels.modulate import add_norm_modulate, gate, modulate, norm_modulate
from ..transfer import to_device
from .tree import AttentionTree, BlockTree, DiTTree, Layer

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
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """(modulation_BT6C for the blocks, time_BTC for the head), one timestep in 0..1000 per latent frame.

    angles: what the sinusoid is computed in; Wan's published code takes float64, ComfyUI float32. It is
    computed where the timesteps are: not every device knows float64. device: of the model; None: the same.
    """
    waves_BTC = sinusoid(timesteps_BT, dit.freq_dim, angles)
    time_BTC = dit.time_embedding(to_device(waves_BTC, device or waves_BTC.device, dtype))
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


class Residual:
    """The tokens [B, L, C] that every part of the model adds to.

    What a part adds waits, so that the sum is made in one pass with the norm that follows. Nothing else holds
    the tokens: those before a sum are free after it.
    """

    def __init__(self, x_BLC: Tensor) -> None:
        self._x_BLC = x_BLC
        self._update_BLC: Tensor | None = None
        self._gate_BTC: Tensor | None = None

    def add(self, update_BLC: Tensor, gate_BTC: Tensor | None = None) -> None:
        """Add update * gate, the gate [B, T, C] for each latent frame or for all; None: 1."""
        self.tokens()
        self._update_BLC, self._gate_BTC = update_BLC, gate_BTC

    def tokens(self) -> Tensor:
        """The tokens, with all that was added."""
        if self._update_BLC is not None and self._gate_BTC is not None:
            self._keep(gate(self._x_BLC, self._update_BLC, self._gate_BTC))
        elif self._update_BLC is not None:
            self._keep(self._x_BLC + self._update_BLC)
        return self._x_BLC

    def normed(self, norm: Layer, shift_BTC: Tensor, scale_BTC: Tensor) -> Tensor:
        """The tokens after `norm`, modulated by shift and scale [B, T, C] of each latent frame or of all."""
        eps = _plain_eps(norm, self._x_BLC.shape[-1])
        if eps is None:
            return modulate(norm(self.tokens()), shift_BTC, scale_BTC)
        if self._update_BLC is None:
            return norm_modulate(self._x_BLC, shift_BTC, scale_BTC, eps)
        given = (self._x_BLC, self._update_BLC, self._gate_BTC)
        x_BLC, h_BLC = add_norm_modulate(*given, shift_BTC, scale_BTC, eps)
        self._keep(x_BLC)
        return h_BLC

    def _keep(self, x_BLC: Tensor) -> None:
        self._x_BLC, self._update_BLC, self._gate_BTC = x_BLC, None, None


def _plain_eps(norm: Layer, channels: int) -> float | None:
    """eps of a LayerNorm over the channels that has no weights and no changes; None: it has to be called."""
    if not isinstance(norm, nn.LayerNorm) or not _is_plain(norm, channels):
        return None
    if norm.elementwise_affine or norm.weight is not None or norm.bias is not None:
        return None
    return norm.eps if _only_normalises(norm) else None


def plain_rms_eps(norm: Layer, channels: int) -> float | None:
    """eps of an RMSNorm over the channels that is not hooked or replaced; None: it has to be called."""
    return norm.eps if isinstance(norm, nn.RMSNorm) and _is_plain(norm, channels) else None


def _is_plain(norm: nn.LayerNorm | nn.RMSNorm, channels: int) -> bool:
    """Whether nobody has hooked it or replaced its forward, and it is over so many channels."""
    changed = "forward" in vars(norm) or norm._forward_hooks or norm._forward_pre_hooks
    return not changed and tuple(norm.normalized_shape) == (channels,)


def _only_normalises(norm: nn.LayerNorm) -> bool:
    """Whether it does what torch's own class does, as those of hosts do; each is asked once, on the CPU."""
    if type(norm).forward is nn.LayerNorm.forward:
        return True
    if norm not in _answers:
        with torch.inference_mode():
            x_LC = torch.arange(2.0 * norm.normalized_shape[0], dtype=torch.float32, device="cpu").sin()
            x_LC = x_LC.unflatten(0, (2, -1))
            _answers[norm] = torch.equal(norm(x_LC), nn.LayerNorm.forward(norm, x_LC))
    return _answers[norm]


_answers: WeakKeyDictionary[nn.LayerNorm, bool] = WeakKeyDictionary()


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
    residual: Residual,
    modulation_BT6C: Tensor,
    mix: Callable[[Tensor], Tensor],
    cross: Callable[[Tensor], Tensor],
) -> None:
    """Add one block to the tokens. mix: its self-attention, of the modulated tokens. cross: its
    cross-attention, of the tokens after norm3."""
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation_vectors(block, modulation_BT6C)
    residual.add(mix(residual.normed(block.norm1, shift1, scale1)), gate1)
    residual.add(cross(block.norm3(residual.tokens())))
    residual.add(block.ffn(residual.normed(block.norm2, shift2, scale2)), gate2)


def cross_attention(attention: AttentionTree, x_BLC: Tensor, cross: Cross) -> Tensor:
    """What the tokens read from the text, through the layers of one cross-attention."""
    q_BLND = split_heads(attention, plain_tensor(attention.norm_q(attention.q(x_BLC))))
    return attention.o(cross(q_BLND).flatten(2))


def head_forward(dit: DiTTree, residual: Residual, time_BTC: Tensor) -> Tensor:
    """Flow of each token's patch [B, L, patch*out_channels]."""
    own = plain_tensor(dit.head.modulation).to(time_BTC)[:, None]
    shift_BTC, scale_BTC = (own + time_BTC[:, :, None]).unbind(2)
    return dit.head.head(residual.normed(dit.head.norm, shift_BTC, scale_BTC))
