"""The live files of one video: `name.part1.mp4`, `name.part2.mp4`, ... until they are joined to `name.mp4`.

A part is a fragmented MP4 and plays by itself, whatever happened to the program that wrote it. A run that
goes on with a video starts another part, because a finished fragment is never touched again.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .ffmpeg import find_ffmpeg, join
from .fmp4 import fragments, frame_count, read_init


@dataclass(frozen=True, slots=True)
class Part:
    """One live file and what it holds."""

    path: Path
    number: int
    frames: int  # whole ones


def part_path(path: Path, number: int) -> Path:
    """Returns where part `number` of a video lies, beside the video itself."""
    return path.with_name(f"{path.stem}.part{number}{path.suffix}")


def parts_of(path: Path) -> list[Part]:
    """Returns the parts of a video that has not been finished, in order."""
    pattern = re.compile(re.escape(path.stem) + r"\.part(\d+)" + re.escape(path.suffix))
    found = [(int(match[1]), p) for p in path.parent.glob("*") if (match := pattern.fullmatch(p.name))]
    return [Part(p, number, frame_count(p)) for number, p in sorted(found)]


def trim(part: Part, frames: int | None = None) -> Part:
    """Returns the part cut to its first `frames` frames (None: all) that are whole; deletes it if none is."""
    with part.path.open("rb") as file:
        init = read_init(file)
        end, kept = len(init), 0
        for fragment in fragments(file, init, len(init), 0):
            if frames is not None and kept + fragment.frames > frames:
                break
            end, kept = fragment.offset + fragment.length, kept + fragment.frames
    if kept:
        os.truncate(part.path, end)
    else:
        part.path.unlink()
    return Part(part.path, part.number, kept)


def trim_all(parts: Sequence[Part], frames: int) -> list[Part]:
    """Returns the parts that hold the first `frames` frames; what lies after them is deleted."""
    kept = []
    for part in parts:
        left = trim(part, frames)
        frames -= left.frames
        if left.frames:
            kept.append(left)
    return kept


def join_parts(path: Path, metadata: Mapping[str, str], program: str) -> list[Part]:
    """Makes the finished video of its parts and returns them; the parts stay until they are deleted.

    The video appears under its name only when it is whole and holds as many frames as its parts.
    """
    parts = [part for part in parts_of(path) if part.frames]
    expected = sum(part.frames for part in parts)
    if not parts:
        return []
    joined = path.with_name(f"{path.stem}.joining{path.suffix}")
    try:
        join(program, [part.path for part in parts], joined, metadata)
        found = frame_count(joined)
        if found != expected:
            raise RuntimeError(f"{expected} frames went in, {found} came out")
        joined.replace(path)
    except (OSError, RuntimeError) as why:
        with suppress(OSError):
            joined.unlink()
        names = ", ".join(part.path.name for part in parts)
        raise RuntimeError(
            f"Video writer: {path.name} could not be put together ({why}). Nothing is lost: the {expected} "
            f"frames are in {names} in {path.parent}, and play. Free some space there, then call "
            f"finish({str(path)!r})."
        ) from why
    return parts


def finish(path: Path | str, metadata: Mapping[str, str] | None = None) -> Path | None:
    """Returns the video made of the parts that an interrupted run left, or None where there is no frame."""
    path = Path(path)
    if path.exists():
        raise ValueError(f"Video writer: {path} exists already; move it away before its parts are joined.")
    parts = join_parts(path, metadata or {}, find_ffmpeg())
    for part in parts:
        part.path.unlink()
    return path if parts else None
