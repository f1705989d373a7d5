"""Registry of a server's newest streams."""

from __future__ import annotations

import threading
from collections import deque

from .live import LiveStream

MAX_STREAMS = 4  # each holds its newest segments in memory


class Streams:
    """The running stream and the newest ended ones, by session id. Thread-safe."""

    def __init__(self) -> None:
        self._streams: deque[LiveStream] = deque(maxlen=MAX_STREAMS)
        self._lock = threading.Lock()

    def add(self, live: LiveStream) -> None:
        """Adds a stream and evicts the oldest; only one runs at a time, so a running one stays."""
        with self._lock:
            self._streams.appendleft(live)

    def find(self, session: str) -> LiveStream | None:
        """The stream of that id, or None."""
        return next((live for live in self.all() if live.session == session), None)

    def all(self) -> list[LiveStream]:
        """All streams, newest first."""
        with self._lock:
            return list(self._streams)
