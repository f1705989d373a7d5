import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rivulet.model_patches.sampler.schedule import first_call, sigmas


def test_the_published_steps():
    timesteps = [1000 * s for s in sigmas()]
    assert timesteps == pytest.approx([1000, 937.5, 2500 / 3, 625], rel=1e-15)


def test_without_shift_levels_are_the_timesteps():
    assert sigmas((1000, 500, 1), shift=1) == (1, 0.5, 0.001)


@given(st.integers(1, 1000), st.floats(0.01, 100))
def test_levels_fall_from_pure_noise_and_stay_above_clean(steps, shift):
    levels = sigmas([1000 * (steps - i) / steps for i in range(steps)], shift)
    assert len(levels) == steps and levels[0] == 1
    assert all(a > b > 0 for a, b in pairwise(levels))


@given(st.floats(0.5, 999.5), st.floats(0.01, 100))
def test_shift_multiplies_the_ratio_of_noise_to_signal(timestep, shift):
    level = sigmas((timestep,), shift)[0]
    assert level / (1 - level) == pytest.approx(shift * timestep / (1000 - timestep), rel=1e-9)


@pytest.mark.parametrize(
    ("timesteps", "shift", "sentence"),
    [
        ((), 5, "got no timesteps"),
        ((1000, 0), 5, r"above 0 and at most 1000, got \[1000, 0\]"),
        ((1001,), 5, "above 0 and at most 1000"),
        ((math.nan,), 5, "above 0 and at most 1000"),
        ((500, 500), 5, r"must decrease from call to call, got \[500, 500\]"),
        ((250, 500), 5, "must decrease from call to call"),
        ((1000,), 0, "shift must be a positive number, got 0"),
        ((1000,), math.inf, "shift must be a positive number, got inf"),
        ((1000,), math.nan, "shift must be a positive number, got nan"),
    ],
)
def test_schedules_that_cannot_be_are_refused(timesteps, shift, sentence):
    with pytest.raises(ValueError, match=sentence):
        sigmas(timesteps, shift)


@pytest.mark.parametrize(
    ("strength", "call"), [(1.0, 0), (0.95, 1), (0.94, 1), (0.93, 2), (0.83, 2), (0.63, 3), (0.62, 3)]
)
def test_a_strength_begins_with_the_highest_level_it_reaches(strength, call):
    """The published levels are 1, 0.9375, 0.8333 and 0.625; half a hundredth is not told apart."""
    assert first_call(sigmas(), strength) == call


@pytest.mark.parametrize(
    ("strength", "words"),
    [(0.6, "give 0.63 or more"), (0.0, "above 0"), (1.1, "at most 1"), (math.nan, "got nan")],
)
def test_a_strength_that_changes_nothing_or_is_none_is_refused(strength, words):
    with pytest.raises(ValueError, match=words):
        first_call(sigmas(), strength)
