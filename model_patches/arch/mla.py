"""VideoMLA's self-attention as layers (arXiv 2605.30351, section 3), in the place of Wan's dense one.

x [B, L, C] modulated tokens, N heads, D = still + turned channels of a head. Of each token a cache needs the
normed latent c [B, L, kv_latent] and one rotary key k_R [B, L, turned] that all heads share; keys and values
are linear maps of the two. `q`, `k` and `v` give them whole, as Wan's layers do, so that whatever streams a
Wan model streams this one: a head is [still | turned], and `rope_layout` turns the last part alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .rotary import RopeLayout
from .wan import WanConfig, WanModel

PROJECTIONS = ("q_down", "q_up", "q_rope", "kv_down", "k_up", "v_up", "k_rope", "o")


@dataclass(frozen=True, slots=True)
class MlaSizes:
    """What makes a Wan model a VideoMLA model; the defaults are the published ones, for heads of 128."""

    kv_latent: int = 192
    query_latent: int = 768
    rope: RopeLayout = field(default_factory=lambda: RopeLayout.truncated(128, 32))
    biases: frozenset[str] = frozenset({"o"})  # projections that have one; the formulas show none

    def __post_init__(self) -> None:
        unknown = set(self.biases) - set(PROJECTIONS)
        if unknown or min(self.kv_latent, self.query_latent) < 1:
            raise ValueError(
                f"MlaSizes: latents of {self.kv_latent} and {self.query_latent} channels with biases on "
                f"{sorted(self.biases)}; both need at least 1 channel, and biases are of "
                f"{', '.join(PROJECTIONS)}."
            )

    @property
    def cache_channels(self) -> int:
        """Numbers that a cache holds of a token and layer: 224 in the published sizes, dense 3072."""
        return self.kv_latent + self.rope.turned


class MlaAttention(nn.Module):
    """The layers of one self-attention; what stands between latents and heads is linear."""

    def __init__(
        self, dim: int, num_heads: int, sizes: MlaSizes, eps: float, operations: Any = nn, **factory: Any
    ) -> None:
        """operations: the module whose Linear and RMSNorm are used, torch's or a host's. factory: their
        device and dtype."""
        super().__init__()
        if sizes.rope.head_dim * num_heads != dim:
            raise ValueError(
                f"MlaAttention: {num_heads} heads of {sizes.rope.still} still and {sizes.rope.turned} turned "
                f"channels do not make {dim}; give a layout of heads of {dim // num_heads}."
            )
        still, turned = num_heads * sizes.rope.still, num_heads * sizes.rope.turned

        def linear(name: str, width_in: int, width_out: int) -> nn.Module:
            return operations.Linear(width_in, width_out, bias=name in sizes.biases, **factory)

        self.num_heads, self.sizes = num_heads, sizes
        self.q_down = linear("q_down", dim, sizes.query_latent)
        self.norm_q_latent = operations.RMSNorm(sizes.query_latent, eps=eps, **factory)
        self.q_up = linear("q_up", sizes.query_latent, still)
        self.q_rope = linear("q_rope", sizes.query_latent, turned)
        self.kv_down = linear("kv_down", dim, sizes.kv_latent)
        self.norm_kv_latent = operations.RMSNorm(sizes.kv_latent, eps=eps, **factory)
        self.k_up = linear("k_up", sizes.kv_latent, still)
        self.v_up = linear("v_up", sizes.kv_latent, dim)
        self.k_rope = linear("k_rope", dim, sizes.rope.turned)
        self.o = linear("o", dim, dim)
        # the latents are normed: no norm is left for whole queries and keys
        self.norm_q, self.norm_k = nn.Identity(), nn.Identity()

    def q(self, x_BLC: Tensor) -> Tensor:
        """Queries of all heads [B, L, N*D], before RoPE."""
        latent = self.query_latent(x_BLC)
        return torch.cat([self._heads(self.q_up(latent)), self._heads(self.q_rope(latent))], -1).flatten(-2)

    def k(self, x_BLC: Tensor) -> Tensor:
        """Keys of all heads [B, L, N*D], before RoPE."""
        return self.keys(*self.latent(x_BLC)).flatten(-2)

    def v(self, x_BLC: Tensor) -> Tensor:
        """Values of all heads [B, L, N*D]."""
        return self.v_up(self.norm_kv_latent(self.kv_down(x_BLC)))

    def query_latent(self, x_BLC: Tensor) -> Tensor:
        """Normed latent of the queries [B, L, query_latent]."""
        return self.norm_q_latent(self.q_down(x_BLC))

    def latent(self, x_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """(normed c [B, L, kv_latent], k_R before RoPE [B, L, turned]): all that a cache needs of a token."""
        return self.norm_kv_latent(self.kv_down(x_BLC)), self.k_rope(x_BLC)

    def keys(self, c_BLE: Tensor, k_rope_BLE: Tensor) -> Tensor:
        """Keys [B, L, N, D] of latents; after RoPE where k_R is."""
        still = self._heads(self.k_up(c_BLE))
        shared = k_rope_BLE.unsqueeze(-2).expand(*still.shape[:-1], -1)
        return torch.cat([still, shared], -1)

    def expand(self, c_BLE: Tensor, k_rope_BLE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, L, N, D] of latents; keys are after RoPE where k_R is."""
        return self.keys(c_BLE, k_rope_BLE), self._heads(self.v_up(c_BLE))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))


class MlaModel(WanModel):
    """A Wan 2.1 text-to-video model whose every self-attention is VideoMLA's."""

    def __init__(self, config: WanConfig, sizes: MlaSizes) -> None:
        super().__init__(config, lambda: MlaAttention(config.dim, config.num_heads, sizes, config.eps))
        self.sizes = sizes

    @property
    def rope_layout(self) -> RopeLayout:
        """Which channels of a head turn."""
        return self.sizes.rope
