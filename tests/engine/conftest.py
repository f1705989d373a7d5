"""A tiny model of Wan's shape whose weights are large enough for every path to matter."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller

SIZES = WanConfig(dim=24, ffn_dim=32, num_layers=3, num_heads=2, text_dim=6, in_channels=4, out_channels=4)
GEOMETRY = Geometry(width=48, height=32, latent_channels=4)  # 3 x 2 tokens per latent frame


@pytest.fixture
def make_model():
    """Returns a maker of models: the same weights for the same seed, whatever the dtype."""

    def make(dtype=torch.float32, seed=1, **sizes) -> WanModel:
        generator = torch.Generator().manual_seed(seed)
        model = WanModel(replace(SIZES, **sizes)).requires_grad_(False).eval()
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        return model.to(dtype)

    return make


@pytest.fixture
def model(make_model):
    """Returns the tiny model in float32."""
    return make_model()


@pytest.fixture
def caller(model):
    """Returns the engine's caller of the tiny model."""
    return ModelCaller(model)


@pytest.fixture
def config():
    """Returns a contract with a window of sink 1 + 5 that fills in two blocks, and three calls a block."""
    return StreamConfig(GEOMETRY, "infinity_rope", block_frames=3, sigmas=(1.0, 0.8, 0.5), seed=7)


@pytest.fixture
def make_text():
    """Returns a maker of encoded prompts [B, L, E]."""

    def make(seed=0, tokens=5, batch=1, dtype=torch.float32) -> torch.Tensor:
        generator = torch.Generator().manual_seed(100 + seed)
        return torch.randn(batch, tokens, SIZES.text_dim, generator=generator).to(dtype)

    return make
