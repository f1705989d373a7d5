"""When a picture stands still, and when it burns out: thresholds from data, see docs/long_runs.md.

A warning holds until the picture is well on the other side of its threshold, so that it comes once.
"""

from __future__ import annotations

from collections import deque

from .curve import Point

WINDOW_SECONDS = 8.0  # that a fault must last
# largest change within a second, levels of 255: between streams that repeat themselves and such that move
STILL_LEVELS, MOVES_LEVELS = 1.8, 2.5
REFERENCE_SECONDS = 10.0  # of a scene's beginning, which later pictures are compared with
# rise of the share of clipped colours over the scene's beginning
BURNT_SHARE, FINE_SHARE = 0.05, 0.025

STILL = "The picture has stood still since second {since:.0f}."
BURNT = (
    "The picture burns out: {clipped:.0%} of its colours are at the end of their range since second "
    "{since:.0f}, {reference:.0%} were at the beginning."
)
ADVICE = " Redo it from an earlier second with another seed or prompt, or stop."


class Verdict:
    """What is wrong with the newest pictures of one take, point by point from its beginning."""

    def __init__(self, frames: int, fps: float) -> None:
        """frames: pixel frames of a point."""
        self.sentence = ""  # of the warning that holds
        self._fps = fps
        self._size = max(1, round(WINDOW_SECONDS * fps / frames))
        self.begin_scene()

    def begin_scene(self) -> None:
        """What comes is meant to look different."""
        self.sentence = ""
        self._window: deque[Point] = deque(maxlen=self._size)
        self._first: int | None = None  # frame of the scene
        self._reference: float | None = None  # share of clipped colours at its beginning
        self._still = self._burnt = False

    def take(self, point: Point) -> bool:
        """Whether a warning comes with this point."""
        if self._first is None:
            self._first = point.frame
        self._window.append(point)
        if len(self._window) < self._size:
            return False
        was_still, was_burnt = self._still, self._burnt
        clipped = sum(each.clipped for each in self._window) / self._size
        is_beginning = point.frame + point.frames - self._first <= REFERENCE_SECONDS * self._fps
        if self._reference is None or is_beginning:
            self._reference = max(clipped, self._reference or 0.0)
        changes = [each.change for each in self._window]
        self._still = max(changes) < (MOVES_LEVELS if was_still else STILL_LEVELS)
        self._burnt = clipped > self._reference + (FINE_SHARE if was_burnt else BURNT_SHARE)
        warned = (self._still and not was_still) or (self._burnt and not was_burnt)
        if warned or not (self._still or self._burnt):
            self.sentence = self._words(clipped)
        return warned

    def _words(self, clipped: float) -> str:
        since, said = self._window[0].frame / self._fps, []
        if self._still:
            said.append(STILL.format(since=since))
        if self._burnt:
            said.append(BURNT.format(since=since, clipped=clipped, reference=self._reference))
        return " ".join(said) + ADVICE if said else ""
