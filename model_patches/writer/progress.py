"""Notices that nothing is written any more."""

from __future__ import annotations

import time

from .feeding import Feed
from .parts import RECOVER, WHO

PATIENCE = 3.0  # times what an ffmpeg has, until the thread is given up that is to notice it


class Progress:
    """Notices that the writer's thread does nothing any more, though it watches its ffmpeg itself."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._seen, self._since = feed.steps, time.monotonic()

    def check(self) -> None:
        """RuntimeError after too long without a step."""
        if self._feed.steps != self._seen:
            self._seen, self._since = self._feed.steps, time.monotonic()
        elif time.monotonic() - self._since > (limit := PATIENCE * self._feed.hang_seconds):
            raise RuntimeError(
                f"{WHO}: nothing was written to {self._feed.path.parent} for {limit:g} seconds; its "
                f"disk hangs. What was written before is in parts and plays; run "
                f"`{RECOVER} {self._feed.path}` once the disk is there again."
            )
