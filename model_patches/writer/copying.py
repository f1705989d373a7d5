"""Coded frames from files into another file, unchanged: joining, cutting, taking the end off."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .encoder import FULL, FULL_CODES, HANG_SECONDS, POLL_SECONDS, DiskFullError
from .ffmpeg import error_text, file_url, process_options
from .movie import frame_count
from .sound import SoundTrack
from .tags import tag_flags, tags_text

log = logging.getLogger(__name__)


def working_path(target: Path) -> Path:
    """Returns the name under which a video is made before it is whole."""
    return target.with_name(f"{target.name}.joining")


def working_files(target: Path) -> list[Path]:
    """Returns all names that `copy` uses beside its target."""
    working = working_path(target)
    return [working, *(working.with_name(working.name + end) for end in (".txt", ".tags", ".log"))]


def copy(
    program: str,
    sources: Sequence[Path],
    target: Path,
    *,
    frames: int,
    skip: int = 0,
    metadata: Mapping[str, str] | None = None,
    sound: SoundTrack | None = None,
    hang_seconds: float = HANG_SECONDS,
) -> Path:
    """Returns a new MP4 beside `target`, under its working name, with its header first and synced to disk.

    It holds `frames` frames from number `skip` of the sources on, which begins with a key frame. Tags, or a
    sound, that cannot be written are left out and told. RuntimeError, and no file, where it fails.
    """
    working, listed, tags, said = working_files(target)
    tagged = metadata or {}
    drop = ["-bsf:v", f"noise=drop=lt(n\\,{skip}),setts=ts=TS-STARTPTS"] if skip else []
    try:
        listed.write_text(_list(sources), encoding="utf-8")
        tags.write_text(tags_text(tagged), encoding="utf-8")
        command = [
            *(program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
            *("-f", "concat", "-safe", "0", "-i", file_url(listed)),
            *("-f", "ffmetadata", "-i", file_url(tags), *(sound.inputs if sound else [])),
            *("-map", "0:v", *(["-map", "2:a"] if sound else []), "-map_metadata", "1"),
            *("-c", "copy", *drop, "-frames:v", str(frames)),
            *("-movflags", "faststart" + tag_flags(tagged), "-f", "mp4", file_url(working)),
        ]
        _run(command, working, said, hang_seconds)
        count = frame_count(working)
        if count != frames:
            raise RuntimeError(f"{frames} frames went in, {count} came out")
        sync(working)
    except BaseException as why:
        with suppress(OSError):
            working.unlink()
        is_ours = isinstance(why, OSError | RuntimeError) and not isinstance(why, DiskFullError)
        if not is_ours or not (tagged or sound):
            raise
        lost = "its tags" if tagged else "its sound"
        log.warning("Video writer: %s is made without %s (%s).", target.name, lost, why)
        rest = {"sound": sound if tagged else None, "hang_seconds": hang_seconds}
        return copy(program, sources, target, frames=frames, skip=skip, **rest)
    finally:
        for path in (listed, tags, said):
            with suppress(OSError):
                path.unlink()
    return working


def sync(path: Path) -> None:
    """Blocks until a file, or what a folder lists, is on the disk itself."""
    if path.is_dir():
        if os.name == "nt":  # a folder cannot be opened there
            return
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _run(command: Sequence[str], target: Path, said: Path, hang_seconds: float) -> None:
    """Runs ffmpeg; RuntimeError where it fails, or where the target does not change for `hang_seconds`."""
    with said.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, **process_options())
    seen, since = None, time.monotonic()
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL_SECONDS)
                break
            now = _state(target)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > hang_seconds:
                raise RuntimeError(f"ffmpeg wrote nothing for {hang_seconds:g} seconds; the disk may hang")
    finally:
        if process.poll() is None:
            process.kill()
    if code:
        reason = error_text(said.read_bytes().decode(errors="replace"))
        if code in FULL_CODES or any(words in reason for words in FULL):
            raise DiskFullError("the disk is full")
        raise RuntimeError(f"ffmpeg stopped with code {code}: {reason}")


def _state(path: Path) -> tuple[int, int] | None:
    """What changes while a file is written; None before it is there."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_size, told.st_mtime_ns


def _list(sources: Sequence[Path]) -> str:
    lines = ["ffconcat version 1.0", *(f"file {_quote(file_url(path))}" for path in sources)]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"
