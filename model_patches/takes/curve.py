"""How a video's numbers went over time, in few points whatever its length; and the file with more of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .folder import write_text

MOST_POINTS = 120  # of a curve
LINES_BEFORE_COARSER = 3600  # of a file: then each line stands for twice as much of the video
MAX_LINE = 1 << 12  # letters that are read of one
FIELDS = {"frame", "frames", "motion", "change", "saturation", "clipped", "inside", "border"}


@dataclass(frozen=True, slots=True)
class Point:
    """A stretch of a video; the means of what was seen of it."""

    frame: int  # the first one, counted in the file
    frames: int
    motion: float  # mean difference between two frames, levels of 255
    change: float  # mean difference between two frames about a second apart, levels
    saturation: float  # share
    clipped: float  # share
    inside: float  # motion inside blocks, levels
    border: float | None = None  # motion across block borders, levels; None: there was none

    @property
    def jump(self) -> float | None:
        """How much more moves across block borders than inside blocks; 1: they cannot be seen."""
        if self.border is None:
            return None
        return 1.0 if self.border == self.inside else self.border / max(self.inside, 1e-3)

    def joined(self, later: Point) -> Point:
        """Both as one; later comes next."""
        share = self.frames / (self.frames + later.frames)

        def mean(one: float, other: float) -> float:
            return one * share + other * (1 - share)

        borders = [each for each in (self.border, later.border) if each is not None]
        return Point(
            self.frame,
            later.frame + later.frames - self.frame,
            mean(self.motion, later.motion),
            mean(self.change, later.change),
            mean(self.saturation, later.saturation),
            mean(self.clipped, later.clipped),
            mean(self.inside, later.inside),
            sum(borders) / len(borders) if borders else None,
        )


class Curve:
    """The points of a video from its start, at most MOST_POINTS: neighbours become one, then one again."""

    def __init__(self, frames: int) -> None:
        """frames: of the points that come in."""
        self.frames_per_point = frames
        self.points: list[Point] = []

    def add(self, point: Point) -> None:
        """The next point; between it and the one before, frames may be missing."""
        last = self.points[-1] if self.points else None
        if last is not None and last.frame // self.frames_per_point == point.frame // self.frames_per_point:
            self.points[-1] = last.joined(point)
        else:
            self.points.append(point)
        while len(self.points) > MOST_POINTS:
            self._halve()

    def _halve(self) -> None:
        self.frames_per_point *= 2
        points, self.points = self.points, []
        for point in points:
            self.add(point)

    def told(self) -> dict[str, Any]:
        """What viewers get, for JSON: evenly spaced lists of equal length."""
        names = ("motion", "saturation", "clipped", "jump")
        lists: dict[str, list[float | None]] = {name: [] for name in names}
        for point in self.points:
            missing = point.frame // self.frames_per_point - len(lists["motion"])
            for name, values in lists.items():
                value = getattr(point, name)
                value = None if value is None else round(value, 4)
                # where nothing was seen it stays as it was
                values += [values[-1] if values else value] * missing + [value]
        return {"frames_per_point": self.frames_per_point, **lists}


class CurveFile:
    """A line for every point; the longer the video, the more of it in a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._joined: list[Point] = []

    def open(self, frame: int) -> list[Point]:
        """The points before this frame of the file, which stay; those after it go. Raises OSError."""
        kept = (
            [] if not frame else [point for point in read(self._path) if point.frame + point.frames <= frame]
        )
        self._lines = len(kept)
        if kept or self._path.exists():
            write_text(self._path, "".join(map(_line, kept)))
        return kept

    def add(self, point: Point) -> None:
        """Raises OSError."""
        self._joined.append(point)
        if len(self._joined) < 2 ** (self._lines // LINES_BEFORE_COARSER):
            return
        self.flush()

    def flush(self) -> None:
        """Writes what waits for more. Raises OSError."""
        if not self._joined:
            return
        whole, *rest = self._joined
        for each in rest:
            whole = whole.joined(each)
        self._joined = []
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(whole))
        self._lines += 1


def read(path: Path) -> list[Point]:
    """The points of a file in their order; lines that are damaged, and those out of order, are left out."""
    points: list[Point] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            while line := file.readline(MAX_LINE):
                point = _point(line)
                if point is not None and (not points or point.frame > points[-1].frame):
                    points.append(point)
    except OSError:
        return []
    return points


def _line(point: Point) -> str:
    told = {
        name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(point).items()
    }
    return json.dumps(told) + "\n"


def _point(line: str) -> Point | None:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or set(told) != FIELDS:
        return None
    border = told.pop("border")
    numbers = [*told.values(), 0 if border is None else border]
    if not all(type(each) in (int, float) and 0 <= each <= 1e12 for each in numbers):
        return None
    return Point(**told, border=border) if type(told["frame"]) is type(told["frames"]) is int else None
