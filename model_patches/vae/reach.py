"""How many of a scene's latents the buffers of a decoder hang on, counted over its layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from .tiny import has_memory


def reach_of_wan(layers: nn.Module) -> int:
    """Newest latents that the buffers of Wan's decoder hang on, counted over its layers: 38 as published.

    layers: the decoder itself, this module's or a host's, whose modules are in the order of the forward.
    """
    frames = 0
    for name, layer in reversed(list(layers.named_modules())):
        if not isinstance(layer, nn.Conv3d) or layer.kernel_size[0] == 1:
            continue
        if name.endswith("time_conv"):
            frames = (frames + 1) // 2  # it makes two frames of one
        frames += layer.kernel_size[0] - 1
    return frames


def reach_of_tiny(layers: Iterable[Any]) -> int:
    """Newest latents that the buffers of a tiny decoder hang on: 8 as the family is published.

    layers: in the order of the forward. Each memory block's buffer is its input at the newest frame.
    """
    frames = 0
    for layer in reversed(list(layers)):
        if has_memory(layer):
            frames += 1
        elif hasattr(layer, "stride") and hasattr(layer, "conv"):
            frames = -(-frames // layer.stride)
    return frames
