"""The ruler of memory: it sees a slope that is there."""

import pytest
from rivulet.tests.bench.memory import settled, slope


def test_the_slope_of_a_line_is_found_exactly():
    at = [0, 1000, 2000, 5000]
    assert slope(at, [7.0 + 0.25 * x for x in at]) == pytest.approx(0.25, rel=1e-12)
    assert slope(at, [9.0] * 4) == 0


def test_noise_around_a_level_has_no_slope_and_a_leak_below_it_has():
    at = list(range(0, 20000, 100))
    noise = [(x * 7919 % 101 - 50) * 1e4 for x in at]
    assert abs(slope(at, noise)) * 20000 < max(noise) / 4
    leak = [y + 100.0 * x for x, y in zip(at, noise, strict=True)]
    assert slope(at, leak) - slope(at, noise) == pytest.approx(100.0, rel=1e-9)


@pytest.mark.parametrize(("at", "values"), [([], []), ([5], [1.0]), ([5, 5], [1.0, 2.0])])
def test_too_few_places_have_no_slope(at, values):
    assert slope(at, values) == 0


def test_every_value_needs_its_place():
    with pytest.raises(ValueError, match="2 places and 1 values"):
        slope([1, 2], [1.0])


def test_the_warm_up_is_left_out():
    at, values = list(range(11)), [100.0, 200.0] + [300.0] * 9
    assert settled(at, values) == (list(range(2, 11)), [300.0] * 9)
    assert settled([], []) == ([], [])
