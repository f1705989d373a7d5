"""Registry of a server's newest streams."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .live import Given, LiveStream

MAX_STREAMS = 16
MAX_IN_MEMORY = 4  # newest ones that keep their segments
MAX_RUNS = 256  # whose answer from a cache is awaited


@dataclass(frozen=True, slots=True)
class Got:
    """What the host told a page: a node's file, of a run that this page queued."""

    client: str
    prompt_id: str
    node: str  # the whole path inside subgraphs
    file: str  # path inside the output folder


def read_got(body: Any) -> Got:
    """What a page tells in a JSON value; ValueError names the wrong field, what it got and what it needs."""
    if not isinstance(body, dict):
        raise ValueError(f'Send a JSON object such as {{"node": "12"}}, not {type(body).__name__}.')
    for name in (each.name for each in fields(Got)):
        if not isinstance(body.get(name), str):
            raise ValueError(f"`{name}` must be a text, got {ascii(body.get(name))[:40]}.")
    return Got(**{each.name: body[each.name] for each in fields(Got)})


class Streams:
    """The running stream and the newest ended ones, by session id. Thread-safe."""

    def __init__(self) -> None:
        self._streams: deque[LiveStream] = deque(maxlen=MAX_STREAMS)
        self._cached: OrderedDict[tuple[str, str], tuple[Mapping[str, str], Given]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, live: LiveStream) -> None:
        """Adds a stream and evicts the oldest; only one runs at a time, so a running one stays."""
        with self._lock:
            self._streams.appendleft(live)
            older = list(self._streams)[MAX_IN_MEMORY : MAX_IN_MEMORY + 1]
        for each in older:
            each.forget_media()

    def find(self, session: str) -> LiveStream | None:
        """The stream of that id, or None."""
        return next((live for live in self.all() if live.session == session), None)

    def all(self) -> list[LiveStream]:
        """All streams, newest first."""
        with self._lock:
            return list(self._streams)

    def may_give(self, prompt_id: str, node: str, sessions: Mapping[str, str], given: Given) -> None:
        """A run may be given one of these streams once more, by the file that the host has in its cache."""
        with self._lock:
            self._cached[prompt_id, node] = sessions, given
            if len(self._cached) > MAX_RUNS:
                self._cached.popitem(last=False)

    def give(self, got: Got) -> bool:
        """Notes what the host gave to a run; returns whether that is a stream that is known."""
        with self._lock:
            sessions, given = self._cached.get((got.prompt_id, got.node), ({}, None))
        live = self.find(sessions.get(got.file, ""))
        if live is None or given is None or given.client != got.client:
            return False
        if given not in live.given:
            live.given.append(given)
        return True
