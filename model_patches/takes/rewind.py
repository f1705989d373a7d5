"""Going back in a take: the tail becomes a take of its own, and what is to be another is noted.

In an order in which a run that is killed anywhere leaves a take that can be gone on with: the tail is copied
before anything is taken away, and snapshots of what is to be another go before the other is noted.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path

from ..viewers.mailbox import Redo
from ..writer.joining import copy_tail
from .directed import TAG, timeline_of
from .folder import STOPPED, Ended, SnapshotFile, TakeFolder
from .point import Point
from .timeline_file import Event, read, rewrite


def go_back(folder: TakeFolder, point: Point, redo: Redo) -> Path | None:
    """Makes the take one that ends at the point; the tail's own video, where something is cut off.

    The file is as it was, for a writer to cut at the point's `start_frame`; whoever calls holds its lock.
    point: with the events as they are to be. RuntimeError where there is no room for the tail, OSError where
    the folder cannot be written.
    """
    after = later(folder.snapshots(), point)
    tail = None
    if redo.frame is not None and point.frame < point.on_disk:
        tail = keep_tail(folder, point, after)
    for each in after:
        each.path.unlink(missing_ok=True)
    if list(point.events) != read(folder.timeline):
        rewrite(folder.timeline, point.events)
    return tail


def later(snapshots: Sequence[SnapshotFile], point: Point) -> list[SnapshotFile]:
    """Those after the point's, the newest first: what they hold is made again, or comes to be another."""
    return list(reversed(snapshots[snapshots.index(point.snapshot) + 1 :]))


def keep_tail(folder: TakeFolder, point: Point, snapshots: Sequence[SnapshotFile]) -> Path:
    """The video of all that is cut off, from the last key frame before, with these snapshots beside it."""
    about, tail = folder.read_about(), TakeFolder(free_name(folder.video))
    directed = timeline_of(folder)
    tags = {TAG: directed} if directed else {}
    # from the snapshot on it is made again, and a run that is stopped on its way has not come to the end
    begins = point.first_frame + copy_tail(
        folder.video, min(point.start_frame, point.frame), tail.video, tags
    )
    tail.open()
    tail.write_about(replace(about, first_frame=begins, ended=about.ended or Ended(STOPPED)))
    rewrite(tail.timeline, read(folder.timeline))
    if folder.picture.exists():
        shutil.copyfile(folder.picture, tail.picture)
    for each in snapshots:
        if each.frame >= begins:
            each.path.rename(tail.path / each.path.name)
    return tail.video


def revised(point: Point, redo: Redo) -> tuple[Event, ...]:
    """What happens in the take with the redo's prompt and seed from the point's block on.

    With another prompt later ones do not come; with another seed alone the story is the same.
    """
    events, block = point.events, point.block
    if not redo.prompt and redo.seed is None:
        return events
    held = [event.seed for event in events if event.block <= block]
    seed = redo.seed if redo.seed is not None else held[-1] if held else point.header.config.seed
    before = [event for event in events if event.block < block]
    after = [] if redo.prompt else [replace(event, seed=seed) for event in events if event.block >= block]
    frame = point.first_frame + point.frame
    new = Event(block, frame, redo.prompt or None, redo.mode if redo.prompt else "", seed)
    return (*before, new, *after)


def free_name(video: Path) -> Path:
    """The next name for a tail of this video that no file and no folder has."""
    number = 1
    while any(video.parent.glob(f"{escape(video.stem)}_tail{number}.*")):
        number += 1
    return video.with_name(f"{video.stem}_tail{number}{video.suffix}")
