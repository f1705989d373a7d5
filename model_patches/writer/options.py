"""What a writer is asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ..geometry import rate_of
from .text import WHO


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a part ends and the next one begins."""

    frames: int | None = None
    bytes: int | None = None

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return self.frames is not None or self.bytes is not None


UNLIMITED = Limits()


def check_numbers(**options: tuple[int, int, int]) -> None:
    """ValueError unless each of (value, least, most) is a whole number in its bounds."""
    for name, (value, least, most) in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{WHO}: {name} must be a whole number from {least} to {most}, got {value!r}.")


def check_limits(fps: Fraction, hours: float | None, gigabytes: float | None) -> Limits:
    """Returns where a part ends; ValueError for a length that is none."""
    for name, value in (("part_hours", hours), ("part_gigabytes", gigabytes)):
        if value is not None and (isinstance(value, bool) or not 0 < value < 1e6):
            raise ValueError(f"{WHO}: {name} must be more than 0, or none for no limit, got {value!r}.")
    return Limits(
        frames=None if hours is None else max(1, round(hours * 3600 * fps)),
        bytes=None if gigabytes is None else max(1, round(gigabytes * 1e9)),
    )


def check_fps(fps: Fraction | float) -> Fraction:
    """Returns fps as `rate_of` reads it; ValueError outside 0.01 to 1000."""
    if isinstance(fps, bool) or not isinstance(fps, Fraction | int | float) or not 0.01 <= fps <= 1000:
        raise ValueError(f"{WHO}: fps must be from 0.01 to 1000 frames per second, got {fps!r}.")
    return rate_of(fps)
