"""Allocation against trying everything."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rivulet.model_patches.cache.calibration.allocate import Point, mean_bytes, reach, spend

points = st.builds(
    Point, st.just(8), st.just(4), st.integers(2, 30).map(lambda n: 2 * n), st.floats(0.001, 0.5)
)
curves = st.lists(st.lists(points, min_size=1, max_size=4), min_size=1, max_size=4)


def total_error(points) -> float:
    """Returns the root mean square of the layers' errors: what both ways of choosing are about."""
    return math.sqrt(sum(point.error**2 for point in points) / len(points))


@given(curves, st.floats(4, 60))
def test_nothing_that_fits_has_less_error(layers, token_bytes):
    fitting = [
        choice for choice in product(*layers) if sum(p.bytes for p in choice) <= token_bytes * len(layers)
    ]
    if not fitting:
        with pytest.raises(ValueError, match=r"the smallest basis of this model takes"):
            spend(layers, token_bytes)
        return
    chosen = spend(layers, token_bytes)
    assert mean_bytes(chosen) <= token_bytes
    assert all(point in curve for point, curve in zip(chosen, layers, strict=True))
    assert total_error(chosen) == pytest.approx(min(map(total_error, fitting)), rel=1e-12)


@given(curves, st.floats(0.001, 0.6))
def test_nothing_within_the_error_has_fewer_bytes(layers, error):
    choices = list(product(*layers))
    # rounding may part the two at the border itself
    if min(map(total_error, choices)) > error * (1 + 1e-12):
        with pytest.raises(ValueError, match=r"no basis of this model gets below"):
            reach(layers, error)
        return
    chosen = reach(layers, error)
    assert total_error(chosen) <= error * (1 + 1e-12)
    inside = [mean_bytes(choice) for choice in choices if total_error(choice) <= error * (1 - 1e-12)]
    assert mean_bytes(chosen) <= min(inside, default=mean_bytes(chosen))


@given(curves)
def test_the_least_error_there_is_can_be_asked_for(layers):
    least = min(map(total_error, product(*layers)))
    assert total_error(reach(layers, least)) <= least * (1 + 1e-12)


def test_layers_that_differ_get_different_bytes():
    """Errors that fall at other rates: the best split of two bytes is not the even one."""
    easy = [Point(8 * n, 0, 10 * n, 0.01 * 2.0**-n) for n in range(1, 9)]
    hard = [Point(8 * n, 0, 10 * n, 0.50 * 1.4**-n) for n in range(1, 9)]
    chosen = spend([easy, hard], 40)
    assert [point.bytes for point in chosen] == [10, 70]
    assert total_error(chosen) < total_error([easy[3], hard[3]])


def test_sizes_of_a_large_model_take_no_time():
    generator = torch.Generator().manual_seed(0)
    layers = []
    for scale in torch.rand(40, generator=generator).tolist():
        layers.append([Point(64 * n, 0, 34 * n + 2, (0.1 + scale) * 0.95**n) for n in range(1, 81)])
    chosen = spend(layers, 700)
    assert mean_bytes(chosen) <= 700 and total_error(chosen) < total_error([curve[19] for curve in layers])
