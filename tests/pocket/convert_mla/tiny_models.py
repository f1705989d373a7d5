"""A tiny dense model to convert, and clips of noise to roll out along."""

import torch
from rivulet.model_patches.arch.mla import PROJECTIONS, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.positions import PRESETS
from rivulet.model_patches.geometry import Geometry
from rivulet.pocket.convert_mla.rollout import RolloutClips

CONFIG = WanConfig(32, 48, 2, num_heads=2, text_dim=6, in_channels=4, out_channels=4)
LAYOUT = RopeLayout.truncated(16, 8)
SIZES = MlaSizes(10, 16, LAYOUT, frozenset(PROJECTIONS))
GEOMETRY = Geometry(32, 32, latent_channels=4)  # 2 x 2 tokens
PRESET, BLOCKS, FRAMES = PRESETS["pocket"], 5, 3


def dense_model(dtype=torch.float64):
    model = WanModel(CONFIG).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.to(dtype)


class RandomClips:
    """Clips of noise; enough for whatever only has to run."""

    def __init__(self, dtype=torch.float64, batch=2, blocks=BLOCKS):
        self.dtype, self.batch, self.blocks = dtype, batch, blocks

    def draw(self, generator):
        blocks, batch = self.blocks, self.batch
        clean, context = torch.randn(
            2, batch, 4, blocks * FRAMES, 4, 4, generator=generator, dtype=self.dtype
        )
        texts = torch.randn(blocks, batch, 5, 6, generator=generator, dtype=self.dtype).unbind(0)
        sigmas = torch.rand(blocks, batch, generator=generator).unbind(0)
        return RolloutClips(clean, context, texts, sigmas)
