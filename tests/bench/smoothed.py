"""A cache of two to four bits, after Quant VideoGen (arXiv 2602.02958), for benches alone.

Tokens of a block are put into clusters, and what is left of each beyond its cluster's mean is kept in few
bits: absmax, one scale for a group of channels. Stages go on with what the stage before left. Without a stage
it is plain rounding. B batch rows, L tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ...model_patches.arch.tree import DiTTree, width_of
from ...model_patches.cache.coded import Buffers, Codec, CodedStore
from ...model_patches.cache.core import StoredFormat
from ...model_patches.cache.cost import CacheCost, coded_cost
from ...model_patches.cache.shapes import NO_EXACT, CacheShape

CLUSTERS, PAPER_TOKENS = 256, 4680  # of a block of three latent frames at 832x480
ROUNDS = 10  # of k-means
INDEX_BYTES, MEAN_BYTES, SCALE_BYTES = 1, 2, 1  # of a token's cluster, a channel of a mean, a group's scale
SCALE = torch.float8_e4m3fn


class SmoothedCodec(Codec):
    """Keys after their norm and before RoPE, and values. Numbers are held as they will be read."""

    def __init__(self, given: Smoothed, channels: int, dtype: torch.dtype, device: torch.device) -> None:
        self.given, self.channels, self.dtype, self.device = given, channels, dtype, device

    def buffers(self, rows: int, tokens: int) -> dict[str, Tensor]:
        return {"kv": torch.zeros(rows, tokens, 2, self.channels, dtype=self.dtype, device=self.device)}

    def encode(self, buffers: Buffers, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        for index, x_BLND in enumerate((k_BLND, v_BLND)):
            buffers["kv"][:, :, index] = self.given.kept(x_BLND.flatten(2))

    def rebuild(self, buffers: Buffers, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor) -> None:
        keys, values = buffers["kv"].unflatten(-1, keys_BLND.shape[2:]).unbind(2)
        rotate(keys, table_L, out=keys_BLND)
        values_BLND.copy_(values)


@dataclass(frozen=True, slots=True)
class Smoothed(StoredFormat):
    """Every layer alike."""

    bits: int
    stages: int  # of clusters before the rounding; 0: none
    group: int  # channels that share a scale
    name: str = "smoothed"

    @property
    def cost(self) -> CacheCost:
        """Of what is kept: codes, scales, each token's clusters, and the clusters' means by their share."""

        def layer_bytes(shape: CacheShape, layer: int, dtype: torch.dtype) -> int:
            channels = shape.heads * shape.head_dim
            codes = channels * self.bits / 8 + channels / self.group * SCALE_BYTES
            means = INDEX_BYTES + channels * MEAN_BYTES * CLUSTERS / PAPER_TOKENS
            return round(2 * (codes + self.stages * means))

        return coded_cost(self.name, layer_bytes, NO_EXACT)

    def store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> CodedStore:
        codecs = [SmoothedCodec(self, width_of(model), dtype, device)] * shape.layers
        return CodedStore(shape, frames, dtype, device, codecs, NO_EXACT)

    def spec(self) -> dict[str, object]:
        return {"name": self.name, "bits": self.bits, "stages": self.stages, "group": self.group}

    def kept(self, x_BLC: Tensor) -> Tensor:
        """What is read again of these tokens."""
        left, read = x_BLC.float(), torch.zeros_like(x_BLC, dtype=torch.float32)
        clusters = max(1, round(x_BLC.shape[1] * CLUSTERS / PAPER_TOKENS))
        for _ in range(self.stages):
            means = smoothed(left, clusters).bfloat16().float()
            read, left = read + means, left - means
        return (read + rounded(left, self.bits, self.group)).to(x_BLC.dtype)


def rounded(x_BLC: Tensor, bits: int, group: int) -> Tensor:
    """The nearest of 2^bits - 1 multiples of each group's scale, its largest magnitude over the top code."""
    top = 2 ** (bits - 1) - 1
    grouped = x_BLC.unflatten(-1, (-1, group))
    scale = (grouped.abs().amax(-1, keepdim=True) / top).to(SCALE).to(grouped.dtype)
    codes = torch.where(scale > 0, grouped / scale, 0).round().clamp(-top, top)
    return (codes * scale).flatten(-2)


def smoothed(x_BLC: Tensor, clusters: int) -> Tensor:
    """Each token's cluster's mean, by k-means from tokens that lie evenly apart."""
    start = torch.linspace(0, x_BLC.shape[1] - 1, clusters, device=x_BLC.device).round().long()
    means_BKC = x_BLC[:, start]
    for _ in range(ROUNDS):
        of_BL = torch.cdist(x_BLC, means_BKC).argmin(-1)
        member_BLK = torch.nn.functional.one_hot(of_BL, clusters).to(x_BLC.dtype)
        count_BK1 = member_BLK.sum(1)[..., None]
        means_BKC = torch.where(count_BK1 > 0, member_BLK.mT @ x_BLC / count_BK1.clamp(min=1), means_BKC)
    of_BL = torch.cdist(x_BLC, means_BKC).argmin(-1)
    return means_BKC.gather(1, of_BL[..., None].expand_as(x_BLC))


FEW_BITS = {  # by name: plain rounding, one stage and large groups, four stages and small ones
    "bits_4": Smoothed(4, 0, 64, "bits_4"),
    "bits_2": Smoothed(2, 0, 64, "bits_2"),
    "smoothed_4": Smoothed(4, 1, 64, "smoothed_4"),
    "smoothed_2": Smoothed(2, 1, 64, "smoothed_2"),
    "smoothed_2_fine": Smoothed(2, 4, 16, "smoothed_2_fine"),
}
