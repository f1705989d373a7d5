"""What Stream Video keeps beside its video, and for how long."""

from __future__ import annotations

import logging
from contextlib import suppress

from ...model_patches.takes.folder import PLANNED, TakeFolder
from ...model_patches.takes.keeper import Policy
from ...model_patches.writer.lock import is_locked

log = logging.getLogger(__name__)

EARLY, ALWAYS, NEVER = "when it ends early", "always", "never"
WHEN = {
    EARLY: "all, if it is stopped, interrupted or fails; after the planned end until the next video begins",
    ALWAYS: "all",
    NEVER: "none is taken, so nothing can be resumed or redone",
}
GIGABYTE = 10**9


def policy_of(when: str, seconds: float, gigabytes: float) -> Policy | None:
    """How snapshots are kept; None: not at all. when: one of WHEN. seconds: of video between two."""
    return None if when == NEVER else Policy(seconds, round(gigabytes * GIGABYTE))


class Passing:
    """Takes that are whole, whose snapshots stay until the next video begins."""

    def __init__(self) -> None:
        self._folders: list[TakeFolder] = []

    def add(self, folder: TakeFolder) -> None:
        """The snapshots of this take go when the next video begins, unless that goes on with it."""
        self._folders.append(folder)

    def remove(self, but: TakeFolder) -> None:
        """Another video begins, or this take is gone on with."""
        folders, self._folders = self._folders, []
        for folder in folders:
            if folder == but or is_locked(folder.video):
                continue
            with suppress(OSError, ValueError):  # gone, or no longer ours: then it stays
                if (ended := folder.read_about().ended) is not None and ended.how == PLANNED:
                    folder.remove()


PASSING = Passing()


def newest_snapshot_path(folder: TakeFolder) -> str:
    """Where the newest snapshot lies; "" where there is none."""
    snapshots = folder.snapshots()
    return str(snapshots[-1].path) if snapshots else ""
