"""The models and the VAE of `videos`, whose weights no test changes."""

from dataclasses import replace

import pytest
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.tests.refusals import looked_at  # noqa: F401 - a fixture, for every test here

from .videos import SIZES, seeded


@pytest.fixture(scope="session")
def wan():
    """Returns a caller of a transformer whose latents `vae` shows."""
    return ModelCaller(seeded(WanModel(SIZES)))


@pytest.fixture(scope="session")
def vae():
    return seeded(WanVAE(dim=4))


@pytest.fixture(scope="session")
def wide():
    """Returns a caller of a model whose width int8 has groups for."""
    return ModelCaller(seeded(WanModel(replace(SIZES, dim=64, ffn_dim=64))))
