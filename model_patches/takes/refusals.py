"""What a take that is gone on with, or back in, cannot do: refused before anything of it is changed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

from ..stream.script import Script
from ..stream.timeline import DEFAULT_MODE
from ..viewers.mailbox import Redo
from ..writer.parts import files_of
from .folder import TakeFolder
from .point import Point
from .timeline_file import Event

SPARE_BYTES = 64 << 20  # of a disk, beside the copy of a tail


def refuse_redo(
    folder: TakeFolder, script: Script, events: Sequence[Event], first_frame: int, redo: Redo
) -> None:
    """ValueError where a take that is being made cannot go back so; its run is not ended for nothing.

    events: what happened in it. first_frame: of the stream, where the file begins.
    """
    readable(script, redo)
    snapshots = folder.snapshots()
    if not snapshots:
        raise ValueError("No snapshot of this take is on disk yet; try again in a moment.")
    frame = first_frame + (redo.frame or 0)
    begin = next((each for each in reversed(snapshots) if each.frame <= frame), snapshots[0])
    if any(each.is_lost and begin.frame < each.frame <= frame for each in events):
        raise ValueError(
            "A prompt before that picture was not kept as a text (--disable-metadata) by an earlier run, and "
            "no snapshot was made after it; redo a later picture, or the whole with another seed."
        )
    size = sum(part.path.stat().st_size for part in files_of(folder.video))
    free = shutil.disk_usage(folder.video.parent).free
    if free < size + SPARE_BYTES:
        raise ValueError(
            f"What follows is kept as a video of its own, which needs up to {size >> 20} MiB, and "
            f"{free >> 20} MiB are free; free some space."
        )


def readable(script: Script, redo: Redo) -> Redo:
    """The redo with a switch for its prompt; ValueError where that cannot be read."""
    if not redo.prompt:
        return redo
    if script.encode is None:
        raise ValueError("The prompt is fixed here, so no other can be typed; connect Prompts over Time.")
    script.encode(redo.prompt)
    return redo if redo.mode else replace(redo, mode=script.switch or DEFAULT_MODE)


def refuse_short(folder: TakeFolder, pictures: int | None, point: Point) -> None:
    """ValueError where nothing is left to be made; a take that was cut off at its very end is finished."""
    made, rate = point.made, point.about.fps
    is_finished = point.about.ended is not None and folder.video.exists()
    if pictures is not None and pictures <= made and is_finished:
        raise ValueError(
            f"Resume: {folder.video.name} has {made / rate:.1f} s up to there already, and is to have "
            f"{pictures / rate:.1f} s in all; its length counts from its first picture, so make it longer."
        )
