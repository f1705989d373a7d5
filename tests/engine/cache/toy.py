"""A format as somebody would add it: one module. Keys and values in bfloat16's upper byte alone."""

from dataclasses import dataclass
from typing import Any

import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.cache.coded import Codec, CodedStore
from rivulet.model_patches.cache.core import StoredFormat
from rivulet.model_patches.cache.cost import CacheCost, coded_cost
from rivulet.model_patches.cache.kind import CacheKind
from rivulet.model_patches.cache.shapes import NO_EXACT, Exact


class UpperByte(Codec):
    """Sign and exponent but its last bit: half of bfloat16's bytes, and next to nothing of its numbers."""

    def __init__(self, heads, head_dim):
        self.sizes = heads, head_dim

    def buffers(self, rows, tokens):
        return {"bytes": torch.zeros(rows, tokens, 2, *self.sizes, dtype=torch.int8)}

    def encode(self, buffers, x_BLC, k_BLND, v_BLND):
        both = torch.stack([k_BLND, v_BLND], 2).bfloat16().contiguous()
        buffers["bytes"].copy_(both.view(torch.int8).unflatten(-1, (-1, 2))[..., 1])

    def rebuild(self, buffers, table_L, keys_BLND, values_BLND):
        upper = buffers["bytes"]
        both = torch.stack([torch.zeros_like(upper), upper], -1).flatten(-2).view(torch.bfloat16)
        rotate(both[:, :, 0].to(keys_BLND.dtype), table_L, out=keys_BLND)
        values_BLND.copy_(both[:, :, 1])


@dataclass(frozen=True, slots=True)
class ToyFormat(StoredFormat):
    exact: Exact = NO_EXACT
    name: str = "toy"

    @property
    def cost(self) -> CacheCost:
        return coded_cost(self.name, lambda shape, layer, dtype: 2 * shape.heads * shape.head_dim, self.exact)

    def store(self, model, shape, frames, dtype, device) -> CodedStore:
        codecs = [UpperByte(shape.heads, shape.head_dim)] * shape.layers
        return CodedStore(shape, frames, dtype, device, codecs, self.exact)

    def spec(self):
        return {"name": self.name, "exact_sink": self.exact.sink, "exact_newest": self.exact.newest}


@dataclass(frozen=True)
class ToyKind(CacheKind):
    def why_not(self, model) -> str | None:
        return None

    def cost(self, model) -> CacheCost:
        return ToyFormat().cost

    def build(self, model, exact: Exact = NO_EXACT, source: Any = None) -> ToyFormat:
        return ToyFormat(exact)


KIND = ToyKind("toy", "the upper byte of bfloat16, for nobody")
