"""Waiting for a writer's thread, and noticing that it writes nothing any more."""

from __future__ import annotations

import time
from queue import Full

from .feeding import Feed
from .parts import RECOVER
from .text import WHO

POLL_SECONDS = 0.1  # between checks that the encoder still runs
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


def stop(feed: Feed) -> Exception | None:
    """Waits until the thread has written its queue; returns the error that ended it, or None."""
    progress = Progress(feed)
    asked = False
    try:
        while feed.running:
            if not asked:
                try:
                    feed.items.put(None, timeout=POLL_SECONDS)
                    asked = True
                except Full:
                    pass
            elif feed.join(POLL_SECONDS):
                break
            progress.check()
    except RuntimeError as why:
        return why
    except BaseException:  # Ctrl+C: whoever sent it does not want to wait for the rest
        feed.abandon()
        raise
    return feed.fault
