"""A take whose VAE draws twice the size: its video, its listing, going on with it."""

import numpy as np
import pytest
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.listing import describe
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.model_patches.viewers.mailbox import Redo
from rivulet.model_patches.writer.movie import read_movie

from ..stream.videos import seeded
from .made import Studio


@pytest.fixture
def studio(tmp_path):
    return Studio(tmp_path, vae=seeded(WanVAE(dim=4, upscale=2)))


def test_it_is_gone_on_with_and_listed_at_its_pictures_size(studio, tmp_path):
    studio.make("whole.mp4", pictures=37)
    studio.make(pictures=13)
    studio.make(pictures=37, redo=Redo())
    (_, whole), (_, first), (begins, rest) = studio.shown
    assert whole.frames.shape[1:] == (32, 64, 3) and begins == len(first.frames)
    assert np.array_equal(np.concatenate([first.frames, rest.frames]), whole.frames)
    folder = TakeFolder(tmp_path / "take.mp4")
    movie, take = read_movie(folder.video), describe(folder.video)
    assert (take.width, take.height) == (64, 32)
    assert movie.width / movie.height == 2 and movie.width % 64 == 0  # small videos are drawn larger
    folder.about.unlink()  # then its snapshots say it
    take = describe(folder.video)
    assert (take.width, take.height, take.can_go_on) == (64, 32, True)


def test_a_vae_of_the_usual_size_cannot_go_on_with_it(studio, tmp_path):
    studio.make(pictures=13)
    before = (tmp_path / "take.mp4").read_bytes()
    plain = Studio(tmp_path, studio.caller)
    with pytest.raises(ValueError, match="are 64x32, and this VAE draws 32x16"):
        plain.make(pictures=37, redo=Redo())
    assert (tmp_path / "take.mp4").read_bytes() == before
