"""The kinds of streams that the drift watch is measured on are what they are called."""

import numpy as np
import pytest
from rivulet.tests.bench import watch


@pytest.fixture(scope="module")
def clip():
    """Returns 30 seconds in which a square goes round on a coloured ground."""
    frames = np.full((30 * watch.FPS, 48, 48, 3), (60, 120, 160), np.uint8)
    for n in range(len(frames)):
        frames[n, 10:20, (n * 2) % 40 : (n * 2) % 40 + 8] = (220, 200, 30)
    return frames


def test_sound_streams_are_passed_and_faulty_ones_are_told_of_once(clip):
    found = [
        (kind, good, watch.judge(watch.points(frames))) for kind, good, frames in watch.kinds([("k", clip)])
    ]
    assert len(found) == 8 and [good for _, good, _ in found].count(True) == 3
    wrong = [kind for kind, good, figures in found if figures["warnings_samples"] != (0 if good else 1)]
    assert wrong == []


def test_a_fault_begins_after_the_first_third_and_leaves_that_as_it_is(clip):
    for _, frames in watch.faults(clip):
        assert frames.shape == clip.shape and (frames[:157] == clip[:157]).all()
        assert (frames[-16:] != clip[-16:]).any()
