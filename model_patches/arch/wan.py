"""Wan 2.1 text-to-video as plain layers, with the published attribute and key names.

The module only holds layers. How they are run is in `parts` and in the stages to its right, which accept
any module tree with these names, so a host's own model can take this one's place.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from ..geometry import LATENT_CHANNELS

WIDEST, MOST = 1 << 20, {"num_layers": 512}  # far above the 14B's 13824 channels and 40 layers
TEXT_TOKENS = 512  # that Wan's text encoder, umT5, makes of a prompt, padding included


@dataclass(frozen=True, slots=True)
class WanConfig:
    """The sizes that make one Wan 2.1 model; `num_heads` 0 means heads of 128 channels."""

    dim: int
    ffn_dim: int
    num_layers: int
    num_heads: int = 0
    text_dim: int = 4096
    in_channels: int = LATENT_CHANNELS
    out_channels: int = LATENT_CHANNELS
    patch: tuple[int, int, int] = (1, 2, 2)  # latent frames, rows, columns of one token
    freq_dim: int = 256  # channels of the sinusoid that stands for a timestep
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if type(self.dim) is int and self.num_heads == 0:
            object.__setattr__(self, "num_heads", self.dim // 128)
        if isinstance(self.patch, list):
            object.__setattr__(self, "patch", tuple(self.patch))
        for field in fields(self):
            size, most = getattr(self, field.name), MOST.get(field.name, WIDEST)
            if field.name not in ("patch", "eps") and not _is_size(size, most):
                raise ValueError(
                    f"WanConfig: {field.name} must be a whole number from 1 to {most}, got "
                    f"{reprlib.repr(size)}; num_heads is dim // 128 unless given."
                )
        if not isinstance(self.patch, tuple) or len(self.patch) != 3 or not all(map(_is_size, self.patch)):
            raise ValueError(
                f"WanConfig: patch must be three whole numbers of at least 1, latent frames, rows and "
                f"columns of a token, got {reprlib.repr(self.patch)}."
            )
        if not isinstance(self.eps, float) or not 0 < self.eps < 1:
            raise ValueError(f"WanConfig: eps must be a small number above 0, got {reprlib.repr(self.eps)}.")
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"WanConfig: dim must split into heads of an even width, got dim {self.dim} for "
                f"{self.num_heads} heads; take a dim that is a multiple of 128 or give num_heads."
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.num_heads


def _is_size(value: object, most: int = WIDEST) -> bool:
    return type(value) is int and 1 <= value <= most


class Attention(nn.Module):
    """The layers of one attention; q and k are normalised over the full width, before the heads part."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)


class Block(nn.Module):
    """The layers of one transformer block; `modulation` is added to the timestep's six vectors."""

    def __init__(self, config: WanConfig, self_attn: nn.Module) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.self_attn = self_attn
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = Attention(dim, config.num_heads, eps)
        self.norm2 = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, dim)
        )
        self.modulation = _modulation(6, dim)


class Head(nn.Module):
    """The layers that turn a token into the flow of its patch."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.head = nn.Linear(config.dim, math.prod(config.patch) * config.out_channels)
        self.modulation = _modulation(2, config.dim)


class WanModel(nn.Module):
    """All layers of one Wan 2.1 text-to-video model, under the names of its checkpoints."""

    def __init__(self, config: WanConfig, self_attention: Callable[[], nn.Module] | None = None) -> None:
        """self_attention: makes each block's, where it is another than Wan's dense one."""
        super().__init__()
        dim = config.dim
        self.config = config
        self.dim, self.num_heads, self.num_layers = dim, config.num_heads, config.num_layers
        self.patch_size, self.freq_dim, self.text_dim = config.patch, config.freq_dim, config.text_dim
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, config.patch, stride=config.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        make = self_attention or (lambda: Attention(dim, config.num_heads, config.eps))
        self.blocks = nn.ModuleList(Block(config, make()) for _ in range(config.num_layers))
        self.head = Head(config)
        if not self.head.modulation.is_meta:
            self._init_weights()

    def _init_weights(self) -> None:
        self.apply(_init_layer)
        for layer in (*self.text_embedding, *self.time_embedding):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def forward(self, *_: Tensor) -> Tensor:
        """Refuse: the layers do not know which attention and which past they are to be run with."""
        raise RuntimeError(
            "WanModel: holds layers only and has no forward of its own; run it with "
            "model_patches.attention.forward.bidirectional or model_patches.stream.step."
        )


def _modulation(vectors: int, dim: int) -> nn.Parameter:
    empty = torch.empty(1, vectors, dim)
    # random numbers on the meta device cost seconds of imports and give nothing
    return nn.Parameter(empty if empty.is_meta else torch.randn(1, vectors, dim) / math.sqrt(dim))


def _init_layer(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Linear, nn.Conv3d)):
        nn.init.xavier_uniform_(layer.weight.flatten(1))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
