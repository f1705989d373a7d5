"""Making one video of its parts, and taking the end off one: nothing is coded again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .copying import copy, sync, working_path
from .encoder import HANG_SECONDS
from .ffmpeg import find_ffmpeg
from .lock import FileLock
from .movie import Movie, read_movie
from .parts import RECOVER, clean, files_of, find_parts, joined_path, move, need_room, settle, trim
from .sound import SoundTrack, forget, kept_sound
from .tags import tags_of
from .text import WHO, check_path


def join_parts(
    path: Path, metadata: Mapping[str, str], program: str, hang_seconds: float = HANG_SECONDS
) -> Path | None:
    """Joins the parts into the finished video, deletes them and returns it; None without a frame.

    Each is cut to its whole frames first. NoRoomError where the joined one does not fit; RuntimeError names
    the parts, which are still there, and the next step. Where the name is taken by now, the video gets
    another, which is returned.
    """
    parts = [trim(part) for part in find_parts(path) if part.frames]
    count = sum(part.frames for part in parts)
    if not parts:
        return None
    size = sum(part.path.stat().st_size for part in parts)
    sound = sound_track(path, parts[0].path, 0, count)
    need_room(size, path.parent, f"to join the parts of {path.name}")
    try:
        joined = copy(
            program,
            [part.path for part in parts],
            path,
            frames=count,
            metadata=metadata,
            sound=sound,
            hang_seconds=hang_seconds,
        )
        joined.replace(joined_path(path))
        sync(path.parent)
    except (OSError, RuntimeError) as why:
        with suppress(OSError):
            working_path(path).unlink()
        names = ", ".join(part.path.name for part in parts)
        said = str(why).removeprefix(f"{WHO}: ").rstrip(". ")
        raise RuntimeError(
            f"{WHO}: {path.name} could not be joined ({said}). Nothing is lost: the {count} "
            f"frames are in {names} in {path.parent}, and play. Free some space there, then run "
            f"`{RECOVER} {path}`."
        ) from why
    return settle(path)


def keep_single(path: Path) -> Path | None:
    """Makes the only part the finished video, without a copy; returns its path."""
    (part,) = [part for part in find_parts(path) if part.frames]
    part.path.rename(joined_path(path))
    return settle(path)


def sound_track(path: Path, part: Path, first: int, frames: int) -> SoundTrack | None:
    """What sounds while so many frames of a video are shown, from number `first` on; None: nothing does.

    part: a file of the video, which tells how long a frame is shown.
    """
    movie, kept = read_movie(part), kept_sound(path)
    if movie is None or not movie.fps:
        return None
    if not kept.is_file():
        whole = read_movie(path) if path.is_file() else None
        if whole is None or not whole.sound:
            return None
        kept = path
    return SoundTrack(kept, float(first / movie.fps), float(frames / movie.fps))


def finish(path: Path | str, metadata: Mapping[str, str] | None = None) -> Path | None:
    """Joins the parts that an interrupted run left behind; returns the video, or None without a frame.

    Its tags are those of the parts, where `metadata` has no others.
    """
    path = check_path(WHO, Path(path))
    with FileLock(path):
        named = clean(path)
        if named:
            return named
        if path.exists() and not find_parts(path):
            raise ValueError(f"{WHO}: {path} is finished already, and has no parts beside it.")
        tags = tags_of([part.path for part in find_parts(path)])
        made = join_parts(path, {**tags, **(metadata or {})}, find_ffmpeg())
        forget(path)
        return made


def copy_tail(
    path: Path | str, frame: int, target: Path | str, metadata: Mapping[str, str] | None = None
) -> int:
    """Copies a take, with its tags, from the last key frame at or before `frame` on into another video.

    Returns that key frame's number. path: a finished video or one in parts, which stays as it is. ValueError
    where it has no such frame, or the target exists.
    """
    path, target = Path(path), Path(target)
    if target.exists():
        raise ValueError(f"{WHO}: {target} exists already and stays as it is; choose another name.")
    parts = files_of(path)
    count = sum(part.frames for part in parts)
    if not 0 <= frame < count:
        raise ValueError(f"{WHO}: {path.name} has {count} frames, so none is number {frame}.")
    first = 0
    while frame >= first + parts[0].frames:
        first += parts.pop(0).frames
    skip = _movie(parts[0].path).keyframe_at(frame - first)
    keyframe = first + skip
    sources = [part.path for part in parts]
    need_room(sum(source.stat().st_size for source in sources), target.parent, f"for {target.name}")
    tags = {**tags_of(sources), **(metadata or {})}
    left = count - keyframe
    sound = sound_track(path, sources[0], keyframe, left)
    made = copy(find_ffmpeg(), sources, target, frames=left, skip=skip, metadata=tags, sound=sound)
    if not move(made, target):
        made.unlink()
        raise ValueError(f"{WHO}: {target} has appeared meanwhile and stays as it is; choose another name.")
    sync(target.parent)
    return keyframe


def _movie(path: Path) -> Movie:
    movie = read_movie(path)
    assert movie
    return movie
