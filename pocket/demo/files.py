"""Where the demo's videos lie, and which of them can be gone on with."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from ...model_patches.takes.folder import ENDING, TakeFolder
from ...model_patches.takes.listing import list_takes

MAX_LISTED = 20  # takes


def video_path(out: Path) -> Path:
    """Returns where the video goes: the file that was named, or the next free number in a folder."""
    if out.suffix.lower() == ".mp4":
        return out
    number = 1
    while any(out.glob(f"rivulet-{number:04d}.*")):
        number += 1
    return out / f"rivulet-{number:04d}.mp4"


def next_path(video: Path) -> Path:
    """Returns where the next video goes: beside this one, under the next number that is free."""
    match = re.fullmatch(r"(.+)-(\d{1,9})", video.stem)
    name, digits = match.groups() if match else (video.stem, "1")
    number = int(digits)
    while any(video.parent.glob(f"{glob.escape(name)}-{number:0{len(digits)}d}.*")) or number == int(digits):
        number += 1
    return video.with_name(f"{name}-{number:0{len(digits)}d}.mp4")


def find_take(named: str, out: Path) -> Path:
    """Returns the video of a take: a path, or a name in the folder of videos, with or without its ending.

    ValueError lists those that are there.
    """
    folder = out.parent if out.suffix.lower() == ".mp4" else out
    for path in (Path(named), folder / named):
        if not path.name:
            continue  # the folder that one is in, which is no take
        stem = path.stem if path.suffix in (ENDING, ".mp4") else path.name
        video = path.with_name(f"{stem}.mp4")
        if TakeFolder(video).path.is_dir():
            return video
    there = "; ".join(
        f"{take.path.relative_to(folder)} ({take.seconds:.1f} s, {take.standing})"
        for take in list_takes(folder)[:MAX_LISTED]
    )
    raise ValueError(f"no take {named!r} in {folder}; there are {there or 'none'}.")
