"""Going on with a video that is there: checks that it fits, and then cuts it to the frame to go on from.

The cut waits for the first new frame: what can still be refused by then costs no frame.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

from .copying import sync
from .encoding import Coding, coding_of
from .movie import Movie, read_movie
from .parts import RECOVER, Part, clean, files_of, find_parts, need_room_to_trim, part_path, trim_all
from .text import WHO


def reopen(
    path: Path,
    frame: int,
    *,
    width: int,
    height: int,
    factor: int,
    fps: Fraction,
    program: str,
    go_on: bool,
    tell: Callable[[str], None],
) -> Callable[[], int]:
    """Returns what cuts the video to `frame` frames and gives the number of its last part, 0 without any.

    width, height: pixels of the stream; the file's are `factor` times as many. Until that is called the video
    is as it was. ValueError where a new video would take an old one's name,
    where frames are missing, or where size or rate are others; NoRoomError where the cut has no room.
    """
    clean(path)
    parts = find_parts(path)
    count = sum(part.frames for part in parts)
    finished = path.exists()
    if not go_on:
        _refuse_old(path, parts, finished)
        last = max((part.number for part in parts), default=0)
        return lambda: last
    if finished and count < max(frame, 1):
        _check(path, width, height, factor, fps)
        parts = [_finished(path, parts, frame)]
    elif 0 < count < frame:
        raise _lacking(path, frame, count)
    elif finished and not _holds(path):
        _set_aside(path, tell)
    for part in parts:
        if part.frames:
            _check(part.path, width, height, factor, fps)
    need_room_to_trim(parts, frame)
    return partial(_cut, path, parts, frame, program)


def kept_coding(path: Path, wanted: Coding, tell: Callable[[str], None]) -> Coding:
    """How the files of a video are coded, which is told where it is not as wanted; that, without any."""
    for part in files_of(path):
        if part.frames and (movie := read_movie(part.path)):
            kept = coding_of(movie)
            if (kept.encoder, kept.crf) != (wanted.encoder, wanted.crf):
                tell(f"{path.name} goes on as it began, with {kept.words}, so that it stays one.")
            return kept
    return wanted


def _cut(path: Path, parts: list[Part], frame: int, program: str) -> int:
    """Cuts the parts; a finished video becomes a part again.

    Whatever is interrupted here leaves a video that plays and holds at least these frames.
    """
    if parts and parts[0].path == path:
        # the copy that cuts it begins once it is a part: a video and parts beside it would be two takes
        part = Part(part_path(path, 1), 1, parts[0].frames)
        path.rename(part.path)
        sync(path.parent)
        parts = [part]
    remaining = trim_all(parts, frame, program)
    return remaining[-1].number if remaining else 0


def _refuse_old(path: Path, parts: list[Part], finished: bool) -> None:
    count = sum(part.frames for part in parts)
    if finished:
        raise ValueError(f"{WHO}: {path} exists already and stays as it is; choose another name.")
    if count:
        raise ValueError(
            f"{WHO}: {path.parent} holds {count} frames of an unfinished {path.name} "
            f"({parts[0].path.name}); run `{RECOVER} {path}` to make a video of them, "
            f"resume that stream, or choose another name."
        )


def _finished(path: Path, parts: list[Part], frame: int) -> Part:
    count = _holds(path)
    if count < frame:
        raise _lacking(path, frame, count)
    if any(part.frames for part in parts):
        raise ValueError(
            f"{WHO}: {path.parent} holds both {path.name} ({count} frames) and parts of another video "
            f"of that name ({parts[0].path.name}); move one of them away."
        )
    return Part(path, 1, count)


def _holds(path: Path) -> int:
    movie = read_movie(path)
    return movie.frames if movie else 0


def _set_aside(path: Path, tell: Callable[[str], None]) -> None:
    """Renames a file that is no video, so that the video can have its name."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.broken{number}{path.suffix}")).exists():
        number += 1
    path.rename(aside)
    tell(f"{path.name} could not be read as a video and is called {aside.name} now; its parts are whole.")


def _lacking(path: Path, frame: int, count: int) -> ValueError:
    return ValueError(
        f"{WHO}: the stream resumes at frame {frame}, but {path.parent} holds only "
        f"{count} frames of {path.name}; resume an earlier snapshot, or choose another name."
    )


def _check(path: Path, width: int, height: int, factor: int, fps: Fraction) -> None:
    """Raises ValueError where frames of this size and rate cannot follow those of the file."""
    movie = read_movie(path)
    if not movie:
        raise ValueError(
            f"{WHO}: {path.name} cannot be read as a video; move it away, or choose another name."
        )
    if (movie.width, movie.height) != (width * factor, height * factor) or not movie.has_fps(fps):
        size = f"{movie.width // factor}x{movie.height // factor}"
        raise ValueError(
            f"{WHO}: {path.name} is {size} pixels at {float(movie.fps):g} frames per second, and this run "
            f"makes {width}x{height} at {float(fps):g}; set them to the video's, or choose another name."
        )
    what = _foreign(movie)
    if what:
        raise ValueError(
            f"{WHO}: {path.name} {what}, so another program has made or changed it; nothing can be added to "
            f"it. Choose another name."
        )


def _foreign(movie: Movie) -> str:
    """What a file has that joining would lose or could not join; "" without any."""
    if movie.codec not in ("avc1", "avc3"):
        return f"is coded as {movie.codec.strip()} and not as H.264"
    if movie.tracks > 1 + movie.sound:
        return "has tracks beside its pictures and one sound"
    return "holds its frames in another order than they are shown in" if movie.reordered else ""
