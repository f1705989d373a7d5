"""A tiny model whose weights no test changes, and a folder of takes."""

import pytest
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.takes import keeper
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.tests.refusals import looked_at  # noqa: F401 - a fixture, for every test here

from ..stream.videos import SIZES, seeded
from .made import Studio


@pytest.fixture(autouse=True)
def unhurried(request, monkeypatch):
    """Has a block wait for the snapshot before it: a busy disk would let one be left out, here or there."""
    if request.path.stem == "test_keeper":  # which asks for just that
        return

    def waits(newest) -> bool:
        with newest._changed:
            return not newest._changed.wait_for(lambda: newest._waiting is None, timeout=30)

    monkeypatch.setattr(keeper._Newest, "waits", property(waits))


@pytest.fixture(scope="session")
def models():
    """Returns (a caller, a VAE)."""
    return ModelCaller(seeded(WanModel(SIZES))), seeded(WanVAE(dim=4))


@pytest.fixture
def studio(tmp_path, models):
    return Studio(tmp_path, *models)


@pytest.fixture(scope="session")
def whole(models, tmp_path_factory):
    """Returns the pictures of a take of 8 blocks that nothing disturbed, 93 of them."""
    studio = Studio(tmp_path_factory.mktemp("whole"), *models)
    studio.make(pictures=93)
    assert len(studio.frames) == 93
    return studio.frames
