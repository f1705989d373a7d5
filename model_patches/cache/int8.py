"""Keys and values in int8, one scale for each group of channels of a token: any model, half of bfloat16.

B batch rows, L tokens, N heads, D head width, C = N * D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kernels.quantize import dequantize, quantize
from ...kernels.rope import rotate
from ..arch.tree import DiTTree, width_of
from .coded import Buffers, Codec, CodedStore
from .core import StoredFormat
from .cost import CacheCost, coded_cost, int8_layer_bytes
from .kind import CacheKind
from .shapes import NO_EXACT, CacheShape, Exact

GROUP = 64  # channels that share a scale


class Int8Codec(Codec):
    """Keys after their norm and before RoPE, and values, as absmax int8."""

    def __init__(self, channels: int, group: int, device: torch.device) -> None:
        if refusal := _why_not_groups(channels, group):
            raise ValueError(refusal)
        self.channels, self.group, self.device = channels, group, device

    def buffers(self, rows: int, tokens: int) -> dict[str, Tensor]:
        codes = torch.zeros(rows, tokens, 2, self.channels, dtype=torch.int8, device=self.device)
        groups = self.channels // self.group
        scales = torch.zeros(rows, tokens, 2, groups, dtype=torch.float16, device=self.device)
        return {"codes": codes, "scales": scales}

    def encode(self, buffers: Buffers, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        for index, x_BLND in enumerate((k_BLND, v_BLND)):
            codes, scales = buffers["codes"][:, :, index], buffers["scales"][:, :, index]
            quantize(x_BLND.flatten(2), self.group, 8, codes, scales)

    def rebuild(self, buffers: Buffers, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor) -> None:
        # keys are decoded in the buffer of the values: no extra memory
        flat_BLC = values_BLND.view(*values_BLND.shape[:2], -1)
        for index in (0, 1):
            codes, scales = buffers["codes"][:, :, index], buffers["scales"][:, :, index]
            dequantize(codes, scales, self.group, 8, values_BLND.dtype, flat_BLC)
            if index == 0:
                rotate(values_BLND, table_L, out=keys_BLND)


@dataclass(frozen=True, slots=True)
class Int8Format(StoredFormat):
    """Every layer in int8, `exact` frames dense besides."""

    group: int = GROUP
    exact: Exact = NO_EXACT
    name: str = "int8"

    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if the groups do not divide the model's width, else None."""
        return _why_not_groups(width_of(model), self.group)

    @property
    def cost(self) -> CacheCost:
        return coded_cost(
            self.name, lambda shape, layer, dtype: int8_layer_bytes(shape, self.group), self.exact
        )

    def store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> CodedStore:
        codecs = [Int8Codec(shape.heads * shape.head_dim, self.group, device)] * shape.layers
        return CodedStore(shape, frames, dtype, device, codecs, self.exact)

    def spec(self) -> dict[str, object]:
        exact = {"exact_sink": self.exact.sink, "exact_newest": self.exact.newest}
        return {"name": self.name, "group": self.group, **exact}


INT8 = Int8Format()


@dataclass(frozen=True)
class Int8Kind(CacheKind):
    """See `Int8Format`."""

    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if the groups do not divide the model's width, else None."""
        return INT8.why_not(model)

    def cost(self, model: DiTTree) -> CacheCost:
        return INT8.cost

    def build(self, model: DiTTree, exact: Exact = NO_EXACT, source: Any = None) -> Int8Format:
        return Int8Format(exact=exact)


KIND = Int8Kind("int8", "in eight bits, half of that, for every checkpoint")


def _why_not_groups(channels: int, group: int) -> str | None:
    if group >= 1 and channels % group == 0:
        return None
    most = min(channels, max(group, 1))
    divisor = max(size for size in range(1, most + 1) if channels % size == 0)
    return (
        f"Cache int8: {channels} channels do not divide into groups of {group}; give a group that divides "
        f"the model's width, such as {divisor}."
    )
