"""The latents of VideoMLA's layers, unchanged or in int8, from which they project keys and values.

B batch rows, L tokens, C channels of the model, N heads, D head width, E width of the latent, R rotary
channels. The cache stores, per token and layer, the normed latent c and the rotary key before RoPE that all
heads share: 192 + 32 numbers in the published sizes, 448 bytes in bfloat16 instead of 6144 in a dense cache
(arXiv 2605.30351). The only rounding is that of the compute dtype, or of int8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...kernels.projections import UpProjections
from ...kernels.quantize import quantize
from ...kernels.rebuild import rebuild
from ...kernels.tiers import Latents, Tiers
from ..arch.effective import effective_linear
from ..arch.mla import MlaAttention
from ..arch.tree import DiTTree
from .coded import Buffers, Codec, CodedStore
from .core import StoredFormat
from .cost import SCALE_BYTES, CacheCost, coded_cost
from .kind import CacheKind
from .shapes import NO_EXACT, CacheShape, Exact

MOST_SHARED = 64  # channels under one int8 scale


class MlaCodec(Codec):
    """One layer's c and k_R, concatenated."""

    def __init__(
        self, attention: MlaAttention, tiers: Tiers | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        """attention: its effective weights are read when keys and values are first decoded.

        tiers: of int8; None stores the compute dtype.
        """
        sizes, heads, wide = attention.sizes, attention.num_heads, torch.promote_types(dtype, torch.float32)
        self.attention, self.tiers, self.dtype, self.device = attention, tiers, dtype, device
        self.still = sizes.rope.still
        widths = heads * self.still, heads * sizes.rope.head_dim
        folded = [torch.empty(sizes.kv_latent, width, dtype=dtype, device=device) for width in widths]
        biases = [torch.empty(width, dtype=wide, device=device) for width in widths]
        self.up = UpProjections(folded[0], folded[1], biases[0], biases[1])
        self.probe_1E = torch.linspace(-1, 1, sizes.kv_latent, dtype=dtype, device=device)[None]
        self.asked: Tensor | None = None  # the layers' answer to it when their weights were last read

    def buffers(self, rows: int, tokens: int) -> dict[str, Tensor]:
        kept, tiers, device = self.attention.sizes.cache_channels, self.tiers, self.device
        if tiers is None:
            return {"latents": torch.zeros(rows, tokens, kept, dtype=self.dtype, device=device)}
        return {
            "codes": torch.zeros(rows, tokens, kept, dtype=torch.int8, device=device),
            "scales": torch.zeros(rows, tokens, tiers.groups, dtype=torch.float16, device=device),
        }

    def encode(self, buffers: Buffers, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        kept = torch.cat(self.attention.latent(x_BLC), -1)
        if self.tiers is None:
            buffers["latents"].copy_(kept)
        else:
            quantize(kept, self.tiers.group, 8, buffers["codes"], buffers["scales"])

    def rebuild(self, buffers: Buffers, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor) -> None:
        latents = (
            Latents(buffers["latents"])
            if self.tiers is None
            else Latents(buffers["codes"], buffers["scales"], self.tiers)
        )
        rebuild(latents, self.up, table_L[:, self.still // 2 :], keys_BLND, values_BLND)

    def weights(self) -> Sequence[Tensor]:
        up = self.up
        assert up.key_bias is not None and up.value_bias is not None
        return (up.key, up.value, up.key_bias, up.value_bias)

    def on(self, device: torch.device) -> MlaCodec:
        moved = super().on(device)
        moved.up, moved.probe_1E = self.up.to(device), self.probe_1E.to(device)
        moved.asked = None if self.asked is None else self.asked.to(device)
        return moved

    def is_current(self) -> Tensor | bool:
        return self.asked is not None and (self._answer() == self.asked).all()

    def _answer(self) -> Tensor:
        return torch.cat([self.attention.k_up(self.probe_1E), self.attention.v_up(self.probe_1E)], -1)

    def read_weights(self) -> None:
        attention, up, answer = self.attention, self.up, self._answer()
        self.asked = None  # until both projections are those of these weights
        sides = (attention.k_up, up.key, up.key_bias), (attention.v_up, up.value, up.value_bias)
        for layer, weight_EC, bias_C in sides:
            assert bias_C is not None
            weight, bias = effective_linear(layer, attention.sizes.kv_latent, self.dtype, self.device)
            weight_EC.copy_(weight)
            bias_C.copy_(bias)
        self.asked = answer


@dataclass(frozen=True, slots=True)
class MlaFormat(StoredFormat):
    """Every layer's latents; with int8 also `exact` frames as keys and values."""

    kv_latent: int = 192
    turned: int = 32
    int8: bool = False
    exact: Exact = NO_EXACT

    @staticmethod
    def for_model(model: DiTTree, int8: bool = False, exact: Exact = NO_EXACT) -> MlaFormat:
        """The format for this model's sizes; ValueError for a model without latents."""
        sizes = _attention(model, 0).sizes
        return MlaFormat(sizes.kv_latent, sizes.rope.turned, int8, exact)

    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if a layer of this model has no latents, or of other widths, else None."""
        for layer, block in enumerate(model.blocks):
            if not isinstance(block.self_attn, MlaAttention):
                return _why_no_latents(layer)
            sizes = block.self_attn.sizes
            if (sizes.kv_latent, sizes.rope.turned) != (self.kv_latent, self.turned):
                return (
                    f"Cache {self.name}: the format is for latents of {self.kv_latent} + {self.turned} "
                    f"channels, layer {layer} has {sizes.kv_latent} + {sizes.rope.turned}; take "
                    f"MlaFormat.for_model(model)."
                )
        return None

    def scaled_cost(self, shape: CacheShape, channels: int) -> CacheCost:
        # a quarter of a head is rotary, as published; the rest is latent, in multiples of 32
        turned = shape.head_dim // 4
        kept = (self.kv_latent + self.turned) * shape.heads * shape.head_dim / channels
        return replace(self, kv_latent=max(1, round((kept - turned) / 32)) * 32, turned=turned).cost

    @property
    def name(self) -> str:
        return "mla-int8" if self.int8 else "mla"

    @property
    def lossless(self) -> bool:
        """Whether all frames are latents without int8: keys and values are linear in c and k_R, so a blend
        of two frames' latents is the same blend of their keys and values."""
        return not self.int8 and not self.exact.slots

    @property
    def group(self) -> int:
        """Channels per int8 scale; no group has channels of both c and k_R."""
        both = math.gcd(self.kv_latent, self.turned)
        return max(size for size in range(1, MOST_SHARED + 1) if both % size == 0)

    @property
    def cost(self) -> CacheCost:
        work = self._layer_bytes, self.exact, self._weight_bytes, self._read_flops
        return coded_cost(self.name, *work, lossless=self.lossless)

    def store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> CodedStore:
        tiers = Tiers(self.kv_latent + self.turned, 0, self.group) if self.int8 else None
        codecs = [MlaCodec(_attention(model, layer), tiers, dtype, device) for layer in range(shape.layers)]
        sizes = shape, frames, dtype, device
        return CodedStore(*sizes, codecs, self.exact, lossless=self.lossless)

    def spec(self) -> dict[str, object]:
        exact = {"exact_sink": self.exact.sink, "exact_newest": self.exact.newest}
        return {"name": self.name, "kv_latent": self.kv_latent, "turned": self.turned, **exact}

    def _layer_bytes(self, shape: CacheShape, layer: int, dtype: torch.dtype) -> int:
        kept = self.kv_latent + self.turned
        return kept + kept // self.group * SCALE_BYTES if self.int8 else kept * dtype.itemsize

    def _weight_bytes(self, shape: CacheShape, dtype: torch.dtype) -> int:
        """The up-projections and their biases."""
        wide = torch.promote_types(dtype, torch.float32).itemsize
        return shape.layers * self._up_width(shape) * (self.kv_latent * dtype.itemsize + wide)

    def _read_flops(self, shape: CacheShape, layer: int) -> int:
        """Of a key and a value from E numbers."""
        return 2 * self.kv_latent * self._up_width(shape)

    def _up_width(self, shape: CacheShape) -> int:
        return shape.heads * (2 * shape.head_dim - self.turned)


def _attention(model: DiTTree, layer: int) -> MlaAttention:
    attention = model.blocks[layer].self_attn
    if not isinstance(attention, MlaAttention):
        raise ValueError(_why_no_latents(layer))
    return attention


def _why_no_latents(layer: int) -> str:
    return (
        f"Cache mla: layer {layer} of this model is no VideoMLA attention and has no latents; "
        f"take format latent or int8, or convert the checkpoint (`python run.py convert-mla`)."
    )


@dataclass(frozen=True)
class MlaKind(CacheKind):
    """See `MlaFormat`; the kind that rounds is int8."""

    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if a layer of this model has no latents, else None."""
        others = (i for i, block in enumerate(model.blocks) if not isinstance(block.self_attn, MlaAttention))
        layer = next(others, None)
        return None if layer is None else _why_no_latents(layer)

    def cost(self, model: DiTTree) -> CacheCost:
        return self.build(model).cost

    def build(self, model: DiTTree, exact: Exact = NO_EXACT, source: Any = None) -> MlaFormat:
        return MlaFormat.for_model(model, self.rounds, exact)


KIND = MlaKind(
    "mla", "VideoMLA's own latents, for VideoMLA checkpoints alone", "a VideoMLA checkpoint", rounds=False
)
INT8_KIND = MlaKind("mla-int8", "the same in eight bits", "a VideoMLA checkpoint")
