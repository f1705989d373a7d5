"""The takes in a folder: how long, how they stand, and what can still be done with each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..stream.snapshot import Header, read_header
from ..writer.lock import is_locked
from ..writer.parts import frames_of
from .folder import About, SnapshotFile, TakeFolder
from .standing import RUNNING, Known
from .timeline_file import Event, read

_NAMED = re.compile(r"(.+)(?:\.take|\.part\d+\.mp4|\.snapshot\.safetensors)")


@dataclass(frozen=True, slots=True)
class Take:
    """One take as a listing shows it."""

    path: Path  # of its video, whether or not it is there
    frames: int  # of the file
    fps: float  # 0: not known
    width: int  # pixels; 0: not known
    height: int
    changed: float  # seconds since 1970, of the newest of its files; for people and for the order of the list
    standing: str  # running, whole, stopped, cut off or broken
    reason: str  # a sentence on what can still be done
    snapshots: int
    picture: Path | None
    text: str | None  # the prompt at its end; None: it is not known
    can_go_on: bool  # there is something to go on from, and nobody at work on it

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.frames / self.fps if self.fps else 0.0


def list_takes(folder: Path) -> list[Take]:
    """All takes below a folder, newest first; folders that are linked to are looked into once."""
    videos = sorted(set(find_videos(folder)))
    return sorted((describe(video) for video in videos), key=lambda take: take.changed, reverse=True)


def describe(video: Path) -> Take:
    """How a take stands. No tensor is read and nothing is changed."""
    folder = TakeFolder(video)
    snapshots, events = folder.snapshots(), read(folder.timeline)
    about, header, why = _heads(folder, snapshots)
    running = is_locked(video)
    # a file that grows is not counted: its newest snapshot says enough
    first = about.first_frame if about else 0
    frames = snapshots[-1].frame - first if running and snapshots else _frames(video)
    known = Known(folder, about, header, snapshots, max(0, frames), why)
    standing, reason = (RUNNING, "A run is making it now.") if running else known.standing
    texts = _texts(events, first + known.frames)
    width, height = header.picture_size if header else (0, 0)
    return Take(
        path=video,
        frames=known.frames,
        fps=about.fps if about else (header and header.ledger.fps) or 0.0,
        width=about.width if about else width,
        height=about.height if about else height,
        changed=_changed(folder),
        standing=standing,
        reason=reason,
        snapshots=len(snapshots),
        picture=folder.picture if folder.picture.is_file() else None,
        text=texts[-1] if texts else header.text if header else None,
        can_go_on=not running and known.ready and known.writable,
    )


def _heads(folder: TakeFolder, snapshots: list[SnapshotFile]) -> tuple[About | None, Header | None, str]:
    """(what the take is, the newest snapshot that can be read, why others cannot)."""
    about, header, why = None, None, ""
    try:
        about = folder.read_about()
    except ValueError as error:
        why = str(error)
    for snapshot in reversed(snapshots):
        try:
            header = read_header(snapshot.path)
            break
        except (OSError, ValueError) as error:
            why = why or str(error)
    return about, header, why


def _texts(events: list[Event], end: int) -> list[str]:
    """Prompts that the file reaches, oldest first; all of them where it reaches none."""
    texts = [event.prompt for event in events if event.prompt]
    return [event.prompt for event in events if event.prompt and event.frame < end] or texts


def _frames(video: Path) -> int:
    try:
        return frames_of(video)
    except (OSError, ValueError):
        return 0


def _changed(folder: TakeFolder) -> float:
    times = [0.0]
    for path in (folder.path, folder.about, folder.video, folder.timeline):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times)


def find_videos(folder: Path) -> Iterator[Path]:
    """The videos of all takes, of parts that nobody joined, and of snapshots of earlier releases."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            place = here.stat()
            entries = [] if (place.st_dev, place.st_ino) in seen else list(os.scandir(here))
        except OSError:
            continue
        seen.add((place.st_dev, place.st_ino))
        for entry in entries:
            match = _NAMED.fullmatch(entry.name)
            if match:
                yield here / f"{match[1]}.mp4"
            elif entry.is_dir():
                waiting.append(here / entry.name)
