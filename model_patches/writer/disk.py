"""What a video's disk holds: frames that are safe on it, and room for more."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .copying import sync
from .fmp4 import FragmentIndex
from .text import WHO

START_BYTES = 64 << 20  # about ten minutes at 832x480
LOW_BYTES = 48 << 20  # less, and a run is to stop in order
STOP_BYTES = 32 << 20  # what is queued, and the ends of files
POLL_SECONDS = 0.02
LOOK_SECONDS = 0.25  # between two looks at the disk, which fills by a few MB meanwhile


class DiskLowError(RuntimeError):
    """The disk is nearly full; every frame before is or will be whole in the file."""


class FramesOnDisk:
    """Counts the frames that are whole in the parts, and waits until they are on the disk itself.

    The writer's thread adds parts; any thread may ask and wait, and holds nobody up.
    """

    def __init__(self, folder: Path, first_frame: int) -> None:
        self._folder, self._frames = folder, first_frame
        self._index: FragmentIndex | None = None  # of the newest part
        self._unsynced: list[Path] = []
        self._folder_synced = False
        self._ended = False
        self._lock, self._syncing = threading.Lock(), threading.Lock()

    @property
    def frames(self) -> int:
        """Frames of the stream that are whole in files."""
        index = self._index
        if index is not None:
            index.extend()
            self._frames = max(self._frames, index.frames)
        return self._frames

    def add(self, path: Path, index: FragmentIndex | None = None) -> None:
        """Takes in a part: one of an earlier run, or a new one with its index."""
        with self._lock:
            self._unsynced.append(path)
            self._folder_synced = False
            self._index = index

    def end(self) -> None:
        """Says that nothing more comes."""
        self._ended = True

    def wait(self, frames: int) -> bool:
        """Blocks until so many frames survive a power cut; False where the writer ended before."""
        while self.frames < frames:
            if self._ended:
                return self.frames >= frames and self._sync()
            time.sleep(POLL_SECONDS)
        return self._sync()

    def _sync(self) -> bool:
        with self._syncing:
            with self._lock:
                paths, folder_synced = list(self._unsynced), self._folder_synced
            for path in paths:
                with suppress(FileNotFoundError):  # it is cut just now
                    sync(path)
            if not folder_synced:
                sync(self._folder)
            with self._lock:
                # the newest one grows on
                self._unsynced = [path for path in self._unsynced if path not in paths[:-1]]
                self._folder_synced = self._folder_synced or self._unsynced == paths[-1:]
        return True


class Room:
    """Watches how much of the disk is free."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.reserve_bytes = 0  # that others need at the end, for a snapshot
        self._folder, self._tell, self._told = folder, tell, False
        self._free, self._looked = 1 << 62, 0.0

    def check_start(self) -> None:
        """RuntimeError where there is not even room for a beginning."""
        free = shutil.disk_usage(self._folder).free
        if free < START_BYTES:
            raise RuntimeError(
                f"{WHO}: only {free >> 20} MiB are free in {self._folder}, and a video needs "
                f"{START_BYTES >> 20} MiB to start; free some space or choose another folder."
            )

    def look(self, video_bytes: int, joins: bool) -> None:
        """Looks, every so often; says once when the parts of so many bytes can no longer be joined."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked, self._free = now, shutil.disk_usage(self._folder).free
        if joins and not self._told and self._free < video_bytes + STOP_BYTES + self.reserve_bytes:
            self._told = True
            self._tell(
                f"{self._folder} has {self._free >> 20} MiB free, and joining this video takes "
                f"{video_bytes >> 20} MiB; unless some are freed, it stays in numbered parts, which play."
            )

    @property
    def low(self) -> str:
        """A sentence where the run should end now, so that all of it can be kept; "" while there is room."""
        if self._free >= LOW_BYTES + self.reserve_bytes:
            return ""
        return (
            f"{self._folder} has {self._free >> 20} MiB free, so the run stops here and keeps what it made; "
            f"free some space, then go on with it."
        )

    def refuse(self) -> None:
        """DiskLowError where what is queued hardly fits."""
        if self._free < STOP_BYTES:
            raise DiskLowError(f"{WHO}: {self.low}")
