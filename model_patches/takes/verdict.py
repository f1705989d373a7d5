"""When a picture stands still, and when it burns out: thresholds from data, see docs/long_runs.md.

A warning holds until the picture is well on the other side of its threshold, so that it comes once.
"""

from __future__ import annotations

from collections import deque

from .curve import Point

WINDOW_SECONDS = 8.0  # that a fault must last
# largest change within a second, levels of 255: between streams that repeat themselves and such that move
STILL_LEVELS, MOVES_LEVELS = 1.0, 2.0
REFERENCE_SECONDS = 10.0  # of a take's beginning, which later pictures are compared with
# rise of the share of clipped colours over the take's beginning
BURNT_SHARE, FINE_SHARE = 0.1, 0.05

STILL = "The picture has stood still since second {since:.0f}."
BURNT = (
    "The picture burns out: {clipped:.0%} of its colours are at the end of their range since second "
    "{since:.0f}, {reference:.0%} were at the beginning."
)
ADVICE = " Redo it from an earlier second with another seed or prompt, or stop."


class Verdict:
    """What is wrong with the newest pictures of one take, point by point from its beginning."""

    def __init__(self, point_seconds: float) -> None:
        """point_seconds: of video that a point stands for."""
        self.sentence = ""  # of the warning that holds
        self._seconds = point_seconds
        self._window: deque[Point] = deque(maxlen=max(1, round(WINDOW_SECONDS / point_seconds)))
        self._reference: float | None = None  # share of clipped colours at the beginning
        self._still = self._burnt = False

    def take(self, point: Point) -> bool:
        """Whether a warning comes with this point."""
        before = self._still, self._burnt
        self._window.append(point)
        if len(self._window) < (self._window.maxlen or 0):
            return False
        clipped = sum(each.clipped for each in self._window) / len(self._window)
        if self._reference is None or point.frame * self._seconds <= REFERENCE_SECONDS * point.frames:
            self._reference = max(clipped, self._reference or 0.0)
        changes = [each.change for each in self._window]
        self._still = max(changes) < (MOVES_LEVELS if self._still else STILL_LEVELS)
        self._burnt = clipped > self._reference + (FINE_SHARE if self._burnt else BURNT_SHARE)
        since = self._window[0].frame / point.frames * self._seconds
        warned = (self._still and not before[0]) or (self._burnt and not before[1])
        if warned or not (self._still or self._burnt):
            self.sentence = self._words(since, clipped)
        return warned

    def _words(self, since: float, clipped: float) -> str:
        said = []
        if self._still:
            said.append(STILL.format(since=since))
        if self._burnt:
            said.append(BURNT.format(since=since, clipped=clipped, reference=self._reference))
        return " ".join(said) + ADVICE if said else ""
