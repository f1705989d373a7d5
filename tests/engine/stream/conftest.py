"""The model and the VAE of `videos`, whose weights no test changes."""

import pytest
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.vae.wan import WanVAE

from .videos import SIZES, seeded


@pytest.fixture(scope="session")
def wan():
    """Returns a caller of a transformer whose latents `vae` shows."""
    return ModelCaller(seeded(WanModel(SIZES)))


@pytest.fixture(scope="session")
def vae():
    return seeded(WanVAE(dim=4))
