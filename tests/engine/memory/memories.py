"""Encoders and policies for the tiny model of conftest: width 24 in 2 heads, frames of 2 x 3 tokens."""

import torch
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.memory.learned import LearnedMemory
from rivulet.model_patches.memory.memrope import MemRope


def encoder(dtype=torch.float32, seed=3, **sizes) -> MemoryEncoder:
    """Weights large enough for every path to matter, the same for the same seed."""
    config = EncoderConfig(
        **({"dim": 24, "num_heads": 2, "frames": 3, "grid_height": 2, "grid_width": 3} | sizes)
    )
    made = MemoryEncoder(config).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    return made.to(dtype)


def learned(dtype=torch.float32, seed=3, **options) -> LearnedMemory:
    sizes = {name: options.pop(name) for name in ("normalize_keys",) if name in options}
    return LearnedMemory(encoder(dtype, seed, **sizes), f"seed {seed}", **options)


def memrope(dtype=torch.float32, **options) -> MemRope:
    """Shares large enough for a few blocks to tell them apart."""
    return MemRope(6, dtype, **({"long_share": 0.2, "short_share": 0.15} | options))


EMA = EmaSink(keep=0.9)  # far enough from 1 for a test to see it
