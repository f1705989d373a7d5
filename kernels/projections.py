"""Up-projections of a layer, from latents to keys and values. N heads, D head width, R latent channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class UpProjections:
    """Up-projections of one layer, with the gain of the key's norm and the basis folded in.

    They map R latent channels to the first D-E channels of each head's keys and to all D of its values; E:
    rotary channels that the heads share. key: [R, N*(D-E)], value: [R, N*D], of one dtype (that of
    the product), contiguous in the last dimension. key_bias [N*(D-E)], value_bias [N*D]: float32 (float64 in
    a float64 model), or None.
    """

    key: Tensor
    value: Tensor
    key_bias: Tensor | None = None
    value_bias: Tensor | None = None

    def to(self, device: torch.device) -> UpProjections:
        """The same projections there."""
        biases = (None if bias is None else bias.to(device) for bias in (self.key_bias, self.value_bias))
        return UpProjections(self.key.to(device), self.value.to(device), *biases)
