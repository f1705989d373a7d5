"""`bench snapshots`: a stream in pieces, with snapshots and without, of whatever size its pictures are."""

import pytest
from rivulet.model_patches.writer.movie import read_movie
from rivulet.pocket.choices import choose
from rivulet.pocket.defaults import LOOKS, PLAIN
from rivulet.tests.bench import snapshot_cost


@pytest.mark.parametrize("look", LOOKS)
def test_pieces_are_made_in_turns_and_only_some_have_snapshots(tmp_path, monkeypatch, look):
    monkeypatch.setattr(snapshot_cost, "EVERY_SECONDS", 0.75)
    monkeypatch.setattr(snapshot_cost, "WARM_BLOCKS", 1)
    given = choose(PLAIN.cache, PLAIN.memory, look=look)
    arms = snapshot_cost.measured(given, 1, tmp_path)
    assert [len(arms.seconds[each]) for each in (True, False)] == [1, 1] and arms.written
    movie = read_movie(tmp_path / "take.mp4")
    assert (movie.width, movie.height) == given.pocket.config().geometry.picture_size(
        given.pocket.vae.upscale
    )
