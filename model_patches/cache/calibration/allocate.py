"""Which layer gets how many bytes: the least error that a budget buys, or the fewest bytes for an error.

Python and numpy numbers only. Every layer offers a few points; one is chosen per layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Point:
    """One way to keep a layer's tokens, and what it costs."""

    rank: int  # channels kept
    wide: int  # of them, how many in eight bits; the others in four
    bytes: int  # per token
    error: float  # of the layer's attention output, relative


Curve = Sequence[Point]


def spend(curves: Sequence[Curve], token_bytes: float) -> list[Point]:
    """The points whose errors' mean square is least, at no more than `token_bytes` per token and layer.

    Exact, by dynamic programming over the sum of bytes (the multiple-choice knapsack).
    """
    budget = math.floor(token_bytes * len(curves))
    least = sum(min(point.bytes for point in curve) for curve in curves)
    if budget < least:
        raise ValueError(
            f"Calibration: {token_bytes:g} bytes per token and layer were asked for, and the smallest basis "
            f"of this model takes {math.ceil(least / len(curves))}; give at least that many."
        )
    unit, squares, chosen = _table(curves, budget)
    end = int(squares.argmin())
    return _traced(curves, unit, chosen, end)


def reach(curves: Sequence[Curve], error: float) -> list[Point]:
    """The points with the fewest bytes whose errors' root mean square is at most `error`, to rounding."""
    most = sum(max(point.bytes for point in curve) for curve in curves)
    unit, squares, chosen = _table(curves, most)
    # a sum of n squares is rounded n times and the bound twice: a least error that is asked for is found
    slack = 1 + (len(curves) + 4) * np.finfo(np.float64).eps
    found = np.flatnonzero(squares <= error * error * len(curves) * slack)
    if not len(found):
        least = math.sqrt(float(squares.min()) / len(curves))
        raise ValueError(
            f"Calibration: an error of {100 * error:.3g} % was asked for, and no basis of this model gets "
            f"below {100 * least:.3g} %; give more, or keep the cache as int8 or dense."
        )
    return _traced(curves, unit, chosen, int(found[0]))


def mean_bytes(points: Sequence[Point]) -> float:
    """Bytes per token and layer."""
    return sum(point.bytes for point in points) / len(points)


def _table(curves: Sequence[Curve], most: int) -> tuple[int, np.ndarray, list[np.ndarray]]:
    """(bytes of a cell, least sum of squares of each sum of bytes, the point chosen per layer and cell)."""
    unit = math.gcd(*(point.bytes for curve in curves for point in curve))
    cells = most // unit + 1
    squares, chosen = np.full(cells, np.inf), []
    squares[0] = 0.0
    for curve in curves:
        after, which = np.full(cells, np.inf), np.zeros(cells, np.int16)
        for index, point in enumerate(curve):
            step = point.bytes // unit
            if step >= cells:
                continue
            offered = squares[: cells - step] + point.error**2
            better = offered < after[step:]
            after[step:][better], which[step:][better] = offered[better], index
        squares = after
        chosen.append(which)
    return unit, squares, chosen


def _traced(curves: Sequence[Curve], unit: int, chosen: list[np.ndarray], end: int) -> list[Point]:
    points: list[Point] = []
    for curve, which in zip(reversed(curves), reversed(chosen), strict=True):
        points.append(curve[int(which[end])])
        end -= points[-1].bytes // unit
    return points[::-1]
