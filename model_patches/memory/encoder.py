"""Echo-Infinity's memory encoder, with the names of its checkpoints (arXiv 2606.04527, section 3).

One state of M tokens serves all layers of the model. It attends to the last layer's keys and values of
evicted frames, and a gate per channel blends the result with the state before.
B batch rows, M memory tokens, E evicted tokens, C channels of the model, N heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attention.sdpa import Attention, sdpa

LAYERS = 2  # in every published encoder
INIT_STD = 0.014  # of the initial state
GATE_BIAS = 2.0  # sigmoid of it: an untrained gate keeps 0.881 of the state
EPS = 1e-6


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes of an encoder."""

    dim: int
    num_heads: int
    frames: int  # latent frames in the state
    grid_height: int  # tokens of one of its frames
    grid_width: int
    layers: int = LAYERS
    normalize_keys: bool = False  # RMS norm on the memory's keys, as in the training on short clips

    def __post_init__(self) -> None:
        least = min(self.dim, self.num_heads, self.frames, self.grid_height, self.grid_width, self.layers)
        if least < 1 or self.dim % (2 * self.num_heads):
            raise ValueError(
                f"EncoderConfig: {self.frames} x {self.grid_height} x {self.grid_width} memory tokens of "
                f"{self.dim} channels in {self.num_heads} heads and {self.layers} layers are not possible; "
                f"give 1 or more of each, and channels that divide into heads of even width."
            )

    @property
    def tokens(self) -> int:
        """Tokens of the state."""
        return self.frames * self.grid_height * self.grid_width

    @property
    def parameters(self) -> int:
        """Parameters of all layers and the initial state: 68.57 million in the published sizes."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in MemoryEncoder(self).parameters())

    def device_bytes(self, rows: int, dtype: torch.dtype) -> int:
        """Bytes on the device of a stream: the encoder, two states, keys and values of each.

        The workspace of reads is in the cache's cost.
        """
        return (self.parameters + 2 * 3 * rows * self.tokens * self.dim) * dtype.itemsize


class EncoderLayer(nn.Module):
    """Cross-attention to the evicted frames, then a feed-forward network."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=EPS)
        self.norm1, self.norm2 = nn.RMSNorm(dim, eps=EPS), nn.RMSNorm(dim, eps=EPS)
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim)
        )

    def forward(self, s_BMC: Tensor, k_BEND: Tensor, v_BEND: Tensor, attention: Attention) -> Tensor:
        """The tokens [B, M, C] after attention to the evicted ones."""
        q = self.norm_q(self.q(self.norm1(s_BMC))).unflatten(-1, k_BEND.shape[-2:])
        s_BMC = s_BMC + self.o(attention(q, k_BEND, v_BEND).flatten(2))
        return s_BMC + self.ffn(self.norm2(s_BMC))


class MemoryEncoder(nn.Module):
    """The encoder: `fresh` returns the initial state, `update` the next one, `read` its keys and values."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        empty = torch.empty(1, config.tokens, dim)
        self.query_init = nn.Parameter(empty if empty.is_meta else INIT_STD * torch.randn(empty.shape))
        self.layers = nn.ModuleList(EncoderLayer(dim) for _ in range(config.layers))
        self.connector_proj = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim), nn.RMSNorm(dim, eps=EPS)
        )
        self.gate_linear = nn.Linear(2 * dim, dim)
        self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim)
        if config.normalize_keys:
            self.norm_k_out = nn.RMSNorm(dim, eps=EPS)
        if not empty.is_meta:
            nn.init.constant_(self.gate_linear.bias, GATE_BIAS)

    @property
    def dtype(self) -> torch.dtype:
        """Of the state."""
        return self.query_init.dtype

    def fresh(self, rows: int) -> Tensor:
        """The learned initial state [B, M, C]."""
        return self.query_init.expand(rows, -1, -1)

    def update(
        self, state_BMC: Tensor, k_BEND: Tensor, v_BEND: Tensor, attention: Attention = sdpa
    ) -> Tensor:
        """The state [B, M, C] after one update with evicted keys and values of the model's last layer."""
        x = state_BMC
        for layer in self.layers:
            x = layer(x, k_BEND, v_BEND, attention)
        proposed = self.connector_proj(x)
        gate = torch.sigmoid(self.gate_linear(torch.cat([state_BMC, proposed], -1)))
        return gate * state_BMC + (1 - gate) * proposed

    def read(self, state_BMC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys before RoPE and values [B, M, N, D], the same for every layer of the model."""
        keys, values = self.to_k(state_BMC), self.to_v(state_BMC)
        if self.config.normalize_keys:
            keys = self.norm_k_out(keys)
        heads = (self.config.num_heads, -1)
        return keys.unflatten(-1, heads), values.unflatten(-1, heads)
