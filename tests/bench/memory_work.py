"""Work that a learned memory adds to a block, by formulas and by what the encoder's own code multiplies.

A share of products, not of time: what is read and written, and how well a machine does it, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...model_patches.arch.wan import WanConfig
from ...model_patches.attention.positions import PositionPreset, preset
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.plan.cost import CallSizes, cache_write_work, forward_work
from .memory_subjects import WAN

BLOCK_FRAMES = 3
CALLS = 4  # noisy ones of a block


@dataclass(frozen=True)
class Sizes:
    """One model in a stream with a full window."""

    name: str
    model: WanConfig
    geometry: Geometry
    positions: PositionPreset
    text_tokens: int


SIZES = (
    Sizes("pocket", WanConfig(256, 1024, 4, text_dim=64), Geometry(64, 64), preset("pocket_memory"), 6),
    Sizes("1.3B", WAN, Geometry(832, 480), preset("echo"), 512),
)


def added_shares(sizes: Sizes) -> dict[str, float]:
    """What is added to a block's products: by the encoder, by tokens that every layer attends to, by both."""
    without, seeing = (_block_flops(sizes, shown) for shown in (0, sizes.positions.memory_frames))
    encoder, attended = encoder_flops(sizes) / without, (seeing - without) / without
    return {"encoder_share": encoder, "attention_share": attended, "added_share": encoder + attended}


def encoder_flops(sizes: Sizes) -> int:
    """Products of one update, and of keys and values of the state it makes."""
    model, tokens = sizes.model, sizes.geometry.frame_tokens
    grid = sizes.geometry.grid_height, sizes.geometry.grid_width
    with torch.device("meta"):
        encoder = MemoryEncoder(
            EncoderConfig(model.dim, model.num_heads, sizes.positions.memory_frames, *grid)
        )
        evicted = torch.empty(2, 1, BLOCK_FRAMES * tokens, model.num_heads, model.head_dim)
    with FlopCounterMode(display=False) as counter:
        encoder.read(encoder.update(encoder.fresh(1), *evicted))
    return counter.get_total_flops()


def _block_flops(sizes: Sizes, memory_frames: int) -> int:
    """Products of all calls of a block behind a full window."""
    tokens = sizes.geometry.frame_tokens
    attended = (sizes.positions.capacity_frames or 0) + memory_frames
    call = CallSizes(1, BLOCK_FRAMES * tokens, attended * tokens, sizes.text_tokens, torch.bfloat16)
    return CALLS * forward_work(sizes.model, call).flops + cache_write_work(sizes.model, call).flops
