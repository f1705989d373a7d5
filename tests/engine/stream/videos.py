"""A tiny transformer whose latents a tiny VAE can show, for streams down to their pictures."""

import numpy as np
import torch
from rivulet.model_patches.arch.wan import WanConfig
from rivulet.model_patches.geometry import Geometry

GEOMETRY = Geometry(32, 16)
SIZES = WanConfig(dim=24, ffn_dim=32, num_layers=2, num_heads=1, text_dim=8, freq_dim=16)


def seeded(module):
    """Every parameter random: one left at zero would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    for value in module.parameters():
        value.data = torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
    return module.requires_grad_(False).eval()


def text(number):
    """An encoded prompt [1, L, E]."""
    return torch.randn(1, 3, SIZES.text_dim, generator=torch.Generator().manual_seed(number))


def pictures(count, seed=5):
    """Random ones, uint8 [F, H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    size = (count, GEOMETRY.height, GEOMETRY.width, 3)
    return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)


class Collected:
    """A writer that keeps the frames in memory."""

    def __init__(self, start_frame=0):
        self.chunks, self.frames_written = [], start_frame

    def __enter__(self):
        return self

    def write(self, pixels):
        self.chunks.append(pixels.read().numpy().copy())
        self.frames_written += len(pixels)

    def seal(self):
        pass

    def __exit__(self, *error):
        pass

    @property
    def frames(self):
        empty = np.empty((0, GEOMETRY.height, GEOMETRY.width, 3), np.uint8)
        return np.concatenate(self.chunks or [empty])
