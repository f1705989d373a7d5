"""The files of one video: `name.part1.mp4`, `name.part2.mp4`, ... until they are joined to `name.mp4`.

A part is an MP4 that plays by itself, whatever happened to the program that wrote it. A run that goes on with
a video starts another part. `name.joined.mp4` is a video that is whole and holds all that its parts do: a run
that is killed before the parts are gone leaves no doubt which of them is the video.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .boxes import fragments, read_init
from .copying import copy, sync, working_files
from .ffmpeg import find_ffmpeg
from .lock import is_held
from .movie import read_movie
from .text import WHO

ORPHAN_SECONDS = 10.0  # ffmpeg lives on after its program for as long as it takes to code what is in its pipe
SPARE_BYTES = 8 << 20  # of a disk, beside what a copy takes
RECOVER = "python run.py recover"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a video that is not joined."""

    path: Path
    number: int
    frames: int  # whole ones in it


def part_path(path: Path, number: int) -> Path:
    """Returns the path of part `number` of a video, in the video's folder."""
    return path.with_name(f"{path.stem}.part{number}{path.suffix}")


def joined_path(path: Path) -> Path:
    """Returns the name of a video that is joined while its parts are still there."""
    return path.with_name(f"{path.stem}.joined{path.suffix}")


def find_parts(path: Path) -> list[Part]:
    """Returns the parts of an unfinished video, in order."""
    pattern = re.compile(re.escape(path.stem) + r"\.part(\d+)" + re.escape(path.suffix))
    numbered = [(int(match[1]), p) for p in path.parent.glob("*") if (match := pattern.fullmatch(p.name))]
    return [Part(p, number, _frames(p)) for number, p in sorted(numbered)]


def files_of(path: Path | str) -> list[Part]:
    """Returns the files that hold a take's frames, in order: its parts, or the finished video as part 0."""
    path = Path(path)
    for whole in (joined_path(path), path):
        if whole is path and (parts := [part for part in find_parts(path) if part.frames]):
            return parts
        if whole.is_file():
            return [Part(whole, 0, _frames(whole))]
    return []


def frames_of(path: Path | str) -> int:
    """Returns how many whole frames a take's files hold, finished or in parts; 0 without any."""
    return sum(part.frames for part in files_of(path))


def _frames(path: Path) -> int:
    movie = read_movie(path)
    return movie.frames if movie else 0


def trim(part: Part, frames: int | None = None, program: str = "") -> Part:
    """Cuts a part to its first `frames` whole frames (None: all), or deletes it; returns what is left.

    A file with its table at the front is copied to be cut, and has its name again once the copy is whole.
    """
    movie = read_movie(part.path)
    keep = movie.frames if movie else 0
    if frames is not None:
        keep = min(keep, frames)
    if not movie or not keep:
        part.path.unlink()
        return Part(part.path, part.number, 0)
    if movie.fragmented:
        os.truncate(part.path, _end(part.path, keep))
    elif keep < movie.tabled:
        _need_copy(part.path)
        copy(program or find_ffmpeg(), [part.path], part.path, frames=keep).replace(part.path)
        sync(part.path.parent)
    return Part(part.path, part.number, keep)


def _end(path: Path, frames: int) -> int:
    """Bytes of a fragmented file up to so many frames."""
    with path.open("rb") as file:
        init = read_init(file)
        end = len(init)
        for fragment in fragments(file, init, end, 0, check=True):
            if fragment.first_frame + fragment.frames > frames:
                break
            end = fragment.offset + fragment.length
    return end


def trim_all(parts: Sequence[Part], frames: int, program: str = "") -> list[Part]:
    """Cuts the parts to their first `frames` frames in all; returns those that still have any.

    The last part goes first: whatever is left when this is interrupted begins like the video.
    """
    remaining = []
    before = sum(part.frames for part in parts)
    for part in reversed(parts):
        before -= part.frames
        trimmed = trim(part, max(0, frames - before), program)
        if trimmed.frames:
            remaining.insert(0, trimmed)
    return remaining


def need_room_to_trim(parts: Sequence[Part], frames: int) -> None:
    """NoRoomError where a part must be copied to cut the parts to `frames` frames, and there is no room."""
    for part in parts:
        keep = min(frames, part.frames)
        movie = read_movie(part.path) if keep > 0 else None
        if movie and not movie.fragmented and keep < movie.tabled:
            _need_copy(part.path)
        frames -= part.frames


def _need_copy(path: Path) -> None:
    need_room(path.stat().st_size, path.parent, f"to cut {path.name}")


class NoRoomError(RuntimeError):
    """A copy of a video does not fit on its disk."""


def need_room(size: int, folder: Path, why: str) -> None:
    """Raises NoRoomError unless so many bytes, and a few more, are free."""
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        raise NoRoomError(
            f"{WHO}: {max(1, size >> 20)} MiB are needed {why}, and {folder} has {free >> 20} MiB free; "
            f"free some."
        )


def clean(path: Path) -> Path | None:
    """Removes what dead runs left of this video beside its frames; call it while its lock is held.

    Returns the video, where a run was killed after it had joined it and before it had its name.
    """
    for working in working_files(path):
        working.unlink(missing_ok=True)
    for part in find_parts(path):
        for working in working_files(part.path):
            working.unlink(missing_ok=True)
        wait_for_orphan(part.path)
    named = settle(path)
    for part in find_parts(path):
        if not part.frames and (part.path.stat().st_size == 0 or _is_stub(part.path)):
            part.path.unlink()
    return named


def _is_stub(path: Path) -> bool:
    """Whether a part has its header at most: nothing that a person could miss."""
    with path.open("rb") as file:
        head = file.read(8)
    return head[4:8] in (b"", b"ftyp") or not any(head)


def wait_for_orphan(part: Path) -> None:
    """Blocks while the ffmpeg of a program that died still writes; RuntimeError where it goes on and on."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while is_held(part):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{WHO}: the ffmpeg of a run that died still writes {part}; end it, or wait until it is done."
            )
        time.sleep(0.02)


def settle(path: Path) -> Path | None:
    """Gives a joined video its name and deletes its parts, also after a run that was killed at that.

    Returns its path, which differs from `path` where that name is taken by now; None without a joined one.
    """
    joined = joined_path(path)
    if not joined.is_file():
        return None
    for part in find_parts(path):
        part.path.unlink()
    target, number = path, 1
    while not move(joined, target):
        number += 1
        target = path.with_name(f"{path.stem}_{number}{path.suffix}")
    sync(path.parent)
    return target


def move(source: Path, target: Path) -> bool:
    """Renames a file unless the name is taken; returns whether it was free."""
    if os.name == "nt":
        with suppress(FileExistsError):
            source.rename(target)
            return True
        return False
    try:
        os.link(source, target)
    except FileExistsError:
        if not target.samefile(source):  # the same: an earlier run was killed before the next line but one
            return False
    except OSError:  # a disk without links
        if target.exists():
            return False
        source.rename(target)
        return True
    source.unlink()
    return True
