"""`python run.py recover`: makes videos of what runs that were killed left behind."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .joining import finish
from .lock import is_locked
from .movie import frame_count

LEFT = re.compile(r"(.+)\.(part\d+|joined)\.mp4", re.IGNORECASE)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 where nothing was found or something stayed as it was."""
    options = argparse.ArgumentParser(
        prog="python run.py recover",
        description="Joins the parts of an unfinished video into one file. No frame that is whole is lost, "
        "and nothing is coded again.",
    )
    options.add_argument(
        "path", type=Path, metavar="PATH", help="the video, one of its parts, or a folder: all that are in it"
    )
    path = options.parse_args(argv).path
    videos = unfinished(path) if path.is_dir() else [video_of(path)]
    if not videos:
        print(f"recover: {path} holds no parts of an unfinished video.", file=sys.stderr)
        return 2
    # each is tried, whatever became of the one before
    return max([_recover(video, quietly=path.is_dir()) for video in videos])


def video_of(path: Path) -> Path:
    """Returns the path of the video that a file is a part of, or is."""
    match = LEFT.fullmatch(path.name)
    return path.with_name(f"{match[1]}.mp4") if match else path


def unfinished(folder: Path) -> list[Path]:
    """Returns the videos in a folder that are still in parts."""
    return sorted({video_of(path) for path in folder.glob("*.mp4") if LEFT.fullmatch(path.name)})


def _recover(video: Path, quietly: bool) -> int:
    if quietly and is_locked(video):
        print(f"recover: {video.name} is still being written, and stays as it is.", file=sys.stderr)
        return 0
    try:
        made = finish(video)
    except (OSError, RuntimeError, ValueError) as why:
        print(f"recover: {why}", file=sys.stderr)
        return 2
    if made is None:
        print(f"recover: {video.parent} holds no whole frame of {video.name}.", file=sys.stderr)
        return 2
    print(f"{made}: {frame_count(made)} frames", flush=True)
    return 0
