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
    """One live file."""

    path: Path
    number: int
    frames: int  # complete ones in it


def part_path(path: Path, number: int) -> Path:
    """Returns the path of part `number` of a video, in the video's folder."""
    return path.with_name(f"{path.stem}.part{number}{path.suffix}")


def find_parts(path: Path) -> list[Part]:
    """Returns the parts of an unfinished video, in order."""
    pattern = re.compile(re.escape(path.stem) + r"\.part(\d+)" + re.escape(path.suffix))
    numbered = [(int(match[1]), p) for p in path.parent.glob("*") if (match := pattern.fullmatch(p.name))]
    return [Part(p, number, frame_count(p)) for number, p in sorted(numbered)]


def trim(part: Part, frames: int | None = None) -> Part:
    """Cuts a part to its first `frames` complete frames (None: all), or deletes it; returns what is left."""
    with part.path.open("rb") as file:
        init = read_init(file)
        end, count = len(init), 0
        for fragment in fragments(file, init, len(init), 0):
            if frames is not None and count + fragment.frames > frames:
                break
            end, count = fragment.offset + fragment.length, count + fragment.frames
    if count:
        os.truncate(part.path, end)
    else:
        part.path.unlink()
    return Part(part.path, part.number, count)


def trim_all(parts: Sequence[Part], frames: int) -> list[Part]:
    """Cuts the parts to their first `frames` frames in all; returns those that still have any."""
    remaining = []
    for part in parts:
        trimmed = trim(part, frames)
        frames -= trimmed.frames
        if trimmed.frames:
            remaining.append(trimmed)
    return remaining


def join_parts(path: Path, metadata: Mapping[str, str], program: str) -> list[Part]:
    """Joins the parts into the finished video and returns them, for the caller to delete.

    The video gets its name once it is complete and has as many frames as its parts; RuntimeError names the
    parts, which are still there, and the next step.
    """
    parts = [part for part in find_parts(path) if part.frames]
    expected = sum(part.frames for part in parts)
    if not parts:
        return []
    joined = path.with_name(f"{path.stem}.joining{path.suffix}")
    try:
        join(program, [part.path for part in parts], joined, metadata)
        count = frame_count(joined)
        if count != expected:
            raise RuntimeError(f"{expected} frames went in, {count} came out")
        joined.replace(path)
    except (OSError, RuntimeError) as why:
        with suppress(OSError):
            joined.unlink()
        names = ", ".join(part.path.name for part in parts)
        raise RuntimeError(
            f"Video writer: {path.name} could not be joined ({why}). Nothing is lost: the {expected} "
            f"frames are in {names} in {path.parent}, and play. Free some space there, then call "
            f"finish({str(path)!r})."
        ) from why
    return parts


def finish(path: Path | str, metadata: Mapping[str, str] | None = None) -> Path | None:
    """Joins the parts that an interrupted run left behind; returns the video, or None without a frame."""
    path = Path(path)
    if path.exists():
        raise ValueError(f"Video writer: {path} exists already; move it away before its parts are joined.")
    parts = join_parts(path, metadata or {}, find_ffmpeg())
    for part in parts:
        part.path.unlink()
    return path if parts else None
