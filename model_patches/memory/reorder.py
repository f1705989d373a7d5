"""Reorders a dense model's memory encoder for that model after conversion to VideoMLA's attention.

A converted head is [still | rotary]: its rotary channels are after the others. The encoder's queries and keys
have the channels of the model's keys, so both are permuted alike; values are unchanged.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..arch.rotary import RopeLayout, rotary_channels
from .encoder import EncoderLayer, MemoryEncoder


@torch.no_grad()
def reorder_encoder(encoder: MemoryEncoder, layout: RopeLayout | None) -> MemoryEncoder:
    """The encoder with its channels in the order of `layout`; unchanged for None.

    Raises ValueError if the layout's heads are not as wide as the encoder's.
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
    rotary = rotary_channels(layout, head_dim)
    order = [channel for channel in range(head_dim) if channel not in rotary] + rotary

    def reordered(x: Tensor) -> Tensor:
        return x.unflatten(0, (config.num_heads, head_dim))[:, order].flatten(0, 1)

    result = copy.deepcopy(encoder)
    layers = [layer for layer in result.layers if isinstance(layer, EncoderLayer)]
    projections = [*(layer.q for layer in layers), result.to_k]
    norms = [*(layer.norm_q for layer in layers), *([result.norm_k_out] if config.normalize_keys else [])]
    for part in (*projections, *norms):
        for parameter in part.parameters():
            parameter.copy_(reordered(parameter))
    return result
