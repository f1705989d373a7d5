"""A dense model's memory encoder for that model converted to VideoMLA's attention: channels in its order.

A converted head is [still | turned]: the channels that keep turning have moved behind the others. The encoder
asks and answers in keys' channels, so its queries and keys move alike; values stay where they are.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..arch.rotary import RopeLayout, rotary_channels
from .encoder import EncoderLayer, MemoryEncoder


@torch.no_grad()
def for_layout(encoder: MemoryEncoder, layout: RopeLayout | None) -> MemoryEncoder:
    """The encoder for heads of that layout; None: as it is, for whole heads that turn.

    Raises ValueError if heads of the layout are not as wide as the encoder's.
    """
    if layout is None:
        return encoder
    config = encoder.config
    head_dim = config.dim // config.num_heads
    if layout.head_dim != head_dim:
        raise ValueError(
            f"Memory: the converted model's heads have {layout.head_dim} channels, the encoder's {head_dim}; "
            f"take the encoder that was trained with the model before it was converted."
        )
    turns = rotary_channels(layout, head_dim)
    order = [channel for channel in range(head_dim) if channel not in turns] + turns

    def reordered(x: Tensor) -> Tensor:
        return x.unflatten(0, (config.num_heads, head_dim))[:, order].flatten(0, 1)

    made = copy.deepcopy(encoder)
    layers = [layer for layer in made.layers if isinstance(layer, EncoderLayer)]
    projections = [*(layer.q for layer in layers), made.to_k]
    norms = [*(layer.norm_q for layer in layers), *([made.norm_k_out] if config.normalize_keys else [])]
    for part in (*projections, *norms):
        for parameter in part.parameters():
            parameter.copy_(reordered(parameter))
    return made
