"""Layers as packs for GGUF files give them to ComfyUI: weights in blocks of bytes, unpacked where used.

Blocks are Q8_0's: 32 numbers as int8 behind one float16 scale, 34 bytes (GGUF's specification). A stand-in
for such packs, where test_gguf cannot run: their tensors, too, are bytes that claim the shape of what is in
them.
"""

from __future__ import annotations

import comfy.ops
import torch
from torch import Tensor

BLOCK = 32


class Packed(torch.Tensor):
    """Bytes of a matrix; its `shape` is that of the numbers in it."""

    numbers: torch.Size

    @staticmethod
    def __new__(cls, raw: Tensor, numbers: torch.Size) -> Packed:
        made = raw.as_subclass(cls)
        made.numbers = numbers
        return made

    @property
    def shape(self) -> torch.Size:
        """Of what is packed."""
        return getattr(self, "numbers", None) or self.size()


def pack(weight: Tensor) -> Packed:
    """The matrix in blocks along its rows."""
    blocks = weight.float().reshape(-1, BLOCK)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
    codes = (blocks / scale.float().clamp_min(1e-12)).round().clamp(-127, 127).to(torch.int8)
    raw = torch.cat([scale.view(torch.uint8), codes.view(torch.uint8)], 1).flatten()
    return Packed(raw, weight.shape)


def unpack(packed: Packed) -> Tensor:
    """The matrix in float32."""
    raw = packed.as_subclass(Tensor).reshape(-1, BLOCK + 2)
    scale = raw[:, :2].contiguous().view(torch.float16).float()
    codes = raw[:, 2:].contiguous().view(torch.int8).float()
    return (scale * codes).reshape(packed.numbers)


class PackedOps(comfy.ops.manual_cast):
    """The host's layers, linear ones on packed weights; nothing but calling them gives their numbers."""

    class Linear(torch.nn.Module):
        """A layer whose weight is no matrix."""

        def __init__(self, in_features: int, out_features: int, bias: bool = True, **placed: object) -> None:
            super().__init__()
            self.in_features, self.out_features = in_features, out_features
            self.weight, self.bias = None, None

        def _load_from_state_dict(self, state: dict, prefix: str, *_: object) -> None:
            self.packed = state[f"{prefix}weight"]
            assert isinstance(self.packed, Packed)
            self.weight = torch.nn.Parameter(self.packed.as_subclass(Tensor), requires_grad=False)
            self.bias = torch.nn.Parameter(state[f"{prefix}bias"], requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            """The layer's answer in the input's dtype."""
            weight = unpack(Packed(self.weight.detach(), self.packed.numbers))
            return torch.nn.functional.linear(x, weight.to(x), self.bias.to(x))
