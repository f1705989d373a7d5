"""How a take stands, and what can still be done with it, in a sentence."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..stream.snapshot import Header
from ..writer.parts import files_of
from .folder import FAILED, PLANNED, About, SnapshotFile, TakeFolder

RUNNING, WHOLE, STOPPED, CUT_OFF, BROKEN = "running", "whole", "stopped", "cut off", "broken"
EARLIER = ".snapshot.safetensors"  # ending of a snapshot of releases before there were takes
START_FROM = "begin a new video with its end (Start From)"


@dataclass(frozen=True, slots=True)
class Known:
    """What was found out about a take that no run is making."""

    folder: TakeFolder
    about: About | None
    header: Header | None  # of the newest snapshot that can be read
    snapshots: list[SnapshotFile]
    frames: int  # whole ones in its files
    why: str  # something cannot be read

    @property
    def ready(self) -> bool:
        """Whether a snapshot goes on from pictures that the file has, or from before the first."""
        if self.header is None:
            return False
        first = self.about.first_frame if self.about else self.header.ledger.file_frame
        return any(first <= each.frame <= first + self.frames for each in self.snapshots)

    @property
    def writable(self) -> bool:
        """Whether a run may change it."""
        return all(os.access(each, os.W_OK) for each in (self.folder.path, self.folder.video.parent))

    @property
    def standing(self) -> tuple[str, str]:
        """(how it stands, a sentence on what can be done)."""
        video = self.folder.video
        if self.header is None:
            return BROKEN, self._without_snapshot
        if not files_of(video):
            again = "; or resume it, and it is made again from its start" if self.ready else ""
            return BROKEN, f"{video.name} is not there: put it back under this name{again}."
        if not self.ready:
            return BROKEN, (
                f"{video.name} holds {self.frames} pictures, fewer than its snapshots go on from; you can "
                f"{START_FROM}."
            )
        if not self.writable:
            return BROKEN, f"{video.parent} cannot be written: make it writable, or {START_FROM}."
        return self._ended

    @property
    def _ended(self) -> tuple[str, str]:
        ended = self.about and self.about.ended
        if not ended:
            return CUT_OFF, "The run was cut off: resume it, and what was not on disk yet is made again."
        if ended.how == PLANNED:
            return WHOLE, "It came to its planned end: make it longer, or redo it from any second."
        if ended.how == FAILED:
            return STOPPED, f"The run failed ({ended.sentence.rstrip('.')}): mend that, and resume it."
        return STOPPED, "It was stopped: resume it from its end, or redo it from any second."

    @property
    def _without_snapshot(self) -> str:
        video = self.folder.video
        has = "Its snapshot is of an earlier release"
        if self.snapshots:
            # what is the matter, without where the folder lies; what can be done comes after it
            why = self.why.replace(f"{self.folder.path}{os.sep}", "").partition(". ")[0]
            has = f"No snapshot of it can be read ({why.rstrip('.')})"
        elif not video.with_name(video.stem + EARLIER).exists():
            has = "It has no snapshot"
        if not self.frames:
            return f"{has}, and there is no picture of it: make it anew."
        if video.exists():
            return f"{has}: the video plays, and you can {START_FROM}."
        return (
            f"{has}: `python run.py recover {video.name}` makes a video of its parts, and then you can "
            f"{START_FROM}."
        )
