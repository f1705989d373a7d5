"""The newest streams of a server."""

from __future__ import annotations

import threading
from collections import deque

from .live import LiveStream

KEPT = 4  # streams that viewers can still ask for; each holds its newest segments


class Streams:
    """Streams that run or ended a short while ago, found by their session id."""

    def __init__(self) -> None:
        self._kept: deque[LiveStream] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, live: LiveStream) -> None:
        """Keeps one more; the oldest is forgotten. Only one runs at a time, so it is never that one."""
        with self._lock:
            self._kept.appendleft(live)

    def find(self, session: str) -> LiveStream | None:
        """The stream of that id, or None."""
        return next((live for live in self.all() if live.session == session), None)

    def all(self) -> list[LiveStream]:
        """Every stream that is kept, newest first."""
        with self._lock:
            return list(self._kept)
