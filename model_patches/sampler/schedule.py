"""Noise levels of a block, in float64. sigma is the share of noise: 1 is pure noise, 0 the clean latent."""

import math
from collections.abc import Sequence
from itertools import pairwise

PUBLISHED_TIMESTEPS = (1000.0, 750.0, 500.0, 250.0)
STRENGTH_STEP = 0.01  # precision of a strength


def sigmas(timesteps: Sequence[float] = PUBLISHED_TIMESTEPS, shift: float = 5.0) -> tuple[float, ...]:
    """Decreasing noise levels, one per denoising call, without the final 0.

    timesteps: out of 1000, before the shift. shift raises levels as in Wan 2.1,
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
        raise ValueError(f"Schedule: timesteps must decrease from call to call, got {list(timesteps)}.")
    return tuple(shift * s / (shift * s + (1 - s)) for s in levels)


def first_sigmas(timesteps: Sequence[float], shift: float = 5.0) -> tuple[float, ...]:
    """Noise levels of a scene's first block, as `sigmas`; (), as for all others, without timesteps."""
    return sigmas(timesteps, shift) if timesteps else ()


def first_call(levels: Sequence[float], strength: float) -> int:
    """Index of the highest noise level that is not above `strength`, for a block that starts from a video.

    strength: share of noise, above 0 and up to 1; a level up to 0.005 above it counts as equal. 1 starts at
    the first level: noise alone, if that level is 1.
    """
    if not (math.isfinite(strength) and 0 < strength <= 1):
        raise ValueError(f"Schedule: strength must be above 0 and at most 1, got {strength}.")
    found = next((call for call, level in enumerate(levels) if level <= strength + STRENGTH_STEP / 2), None)
    if found is None:
        raise ValueError(
            f"Schedule: strength {strength} is below every noise level of this model "
            f"({', '.join(f'{level:.3f}' for level in levels)}), so the video would not change; give "
            f"{math.ceil(levels[-1] / STRENGTH_STEP) * STRENGTH_STEP:.2f} or more, or sigmas that go lower."
        )
    return found
