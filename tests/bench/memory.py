"""Whether the memory that a process holds grows."""

from __future__ import annotations

from collections.abc import Sequence


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """Returns how much the values grow per unit of `at`, by least squares; 0 for fewer than two places."""
    if len(at) != len(values):
        raise ValueError(f"Slope: {len(at)} places and {len(values)} values; each value needs its place.")
    if not at:
        return 0.0
    centre, mean = sum(at) / len(at), sum(values) / len(values)
    spread = sum((x - centre) ** 2 for x in at)
    if spread == 0:
        return 0.0
    return sum((x - centre) * (y - mean) for x, y in zip(at, values, strict=True)) / spread


def settled(
    at: Sequence[float], values: Sequence[float], share: float = 0.2
) -> tuple[list[float], list[float]]:
    """Returns the samples after the first `share` of the way; in it caches and buffers fill."""
    if not at:
        return [], []
    start = at[0] + share * (at[-1] - at[0])
    kept = [(x, y) for x, y in zip(at, values, strict=True) if x >= start]
    return [x for x, _ in kept], [y for _, y in kept]
