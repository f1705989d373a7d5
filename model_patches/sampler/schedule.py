"""Noise levels of a block, in float64. sigma is the share of noise: 1 is pure noise, 0 the clean latent."""

import math
from collections.abc import Sequence
from itertools import pairwise

PUBLISHED_TIMESTEPS = (1000.0, 750.0, 500.0, 250.0)


def sigmas(timesteps: Sequence[float] = PUBLISHED_TIMESTEPS, shift: float = 5.0) -> tuple[float, ...]:
    """Falling noise levels, one per denoising call; the clean 0 that follows is not among them.

    timesteps: out of 1000, before the shift. shift moves levels towards noise as in Wan 2.1,
    s -> shift*s / (shift*s + 1 - s); the published four steps become 1, 0.9375, 0.8333, 0.625.
    """
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"Schedule: shift must be a positive number, got {shift}; published models use 5.")
    if not timesteps:
        raise ValueError("Schedule: got no timesteps; give at least one, such as 1000.")
    levels = [float(t) / 1000 for t in timesteps]
    if not all(0 < s <= 1 for s in levels):
        raise ValueError(f"Schedule: timesteps must be above 0 and at most 1000, got {list(timesteps)}.")
    if any(later >= earlier for earlier, later in pairwise(levels)):
        raise ValueError(f"Schedule: timesteps must fall from call to call, got {list(timesteps)}.")
    return tuple(shift * s / (shift * s + (1 - s)) for s in levels)


def even_sigmas(steps: int, shift: float = 5.0) -> tuple[float, ...]:
    """Falling noise levels of `steps` calls, even before the shift; 4 calls give the published ones."""
    if not 1 <= steps <= 1000:
        raise ValueError(f"Schedule: steps must be 1 to 1000, got {steps}.")
    return sigmas([1000 * (steps - i) / steps for i in range(steps)], shift)
