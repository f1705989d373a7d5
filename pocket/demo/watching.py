"""Who watches a take of the demo: the terminal with its Ctrl+C, and the page in the browser."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from ...model_patches.viewers.session import Session
from .server import DemoServer

LINGER_SECONDS = 40.0  # a page that has not asked for so long is closed
POLL_SECONDS = 0.05
STOPPING = b"\nstopping after this block; Ctrl+C again stops at once, and keeps the video too\n"


class CtrlC:
    """The first Ctrl+C ends the stream after its block, the second one at once."""

    def __init__(self) -> None:
        self.session: Session | None = None  # the one in progress, or the last
        self.pressed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> CtrlC:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self.obey) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watch(self, session: Session) -> None:
        """From here on it is this session that is ended."""
        self.session = session
        session.stopping = session.stopping or self.pressed

    def obey(self, number: int, frame: FrameType | None) -> None:
        """Takes the signal; no lock may be waited for here."""
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        if self.session is None or not self.session.stopping:
            if self.session is not None:
                self.session.stopping = True
            # print must not be interrupted by itself, and this may come in the middle of one
            os.write(2, STOPPING)


@dataclass
class Page:
    """The page in the browser, opened once when the first session has begun."""

    server: DemoServer
    ctrl_c: CtrlC
    wants_browser: bool
    opened: bool = False
    shown: bool = False

    def show(self, session: Session) -> None:
        """Says where the page is; a later session of the same take is seen on the same page."""
        self.ctrl_c.watch(session)
        self.server.wanted = None
        if not self.shown:
            self.shown = True
            say(f"watch and steer it at {self.server.url} - Ctrl+C stops and keeps the video")
            self.opened = self.wants_browser and has_screen() and webbrowser.open(self.server.url)


def linger(server: DemoServer, ctrl_c: CtrlC, opened: bool) -> str | None:
    """Returns the prompt of another video when a page asks for one.

    None when no page looks any more, so that the end can be watched; Ctrl+C ends it too.
    """
    ended = time.monotonic()
    if ctrl_c.pressed or (server.last_asked is None and not opened):
        return None
    say("the page stays open until you close it; Ctrl+C ends it")
    while not ctrl_c.pressed:
        if server.wanted is not None:
            return server.wanted
        if time.monotonic() - max(server.last_asked or ended, ended) > LINGER_SECONDS:
            return None
        time.sleep(POLL_SECONDS)
    return None


def has_screen() -> bool:
    """Tells whether a browser has a window to open; a text browser would take the terminal."""
    named = {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)
    return os.name == "nt" or sys.platform == "darwin" or bool(named)


@contextmanager
def serving(server: DemoServer) -> Iterator[DemoServer]:
    """Answers the page from a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def say(sentence: str) -> None:
    """Writes a line for the person at the keyboard."""
    print(sentence, file=sys.stderr, flush=True)
