"""Every test here trains on nothing that is held out."""

import pytest
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.pocket.train_pocket.vae import start_per_frame
from rivulet.tests.pocket.nothing_unseen import nothing_unseen  # noqa: F401 - a fixture, for every test here


@pytest.fixture
def vae() -> WanVAE:
    """Returns a small one that begins as a training's does."""
    vae = WanVAE(4)
    start_per_frame(vae)
    return vae.requires_grad_(False)
