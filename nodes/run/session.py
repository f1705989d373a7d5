"""Streams that run or ended a short while ago, and what the thread that makes one tells and asks viewers."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from types import TracebackType

import comfy.model_management
import torch
from server import PromptServer

from ...model_patches.viewers.live import ENDED, FAILED, PAUSED, RUNNING, LiveStream
from ...model_patches.viewers.mailbox import Message
from ...model_patches.writer.video import Mp4Writer

EVENT = "rivulet.stream"
KEPT = 4  # streams that viewers can still ask for; each holds its newest segments
GLANCE_SECONDS = 0.1  # how soon a paused stream sees that the run was interrupted
INTERRUPTED = "The run was interrupted; what was made until then is kept."


class Sessions:
    """The newest streams of this server, found by their session id."""

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


SESSIONS = Sessions()


class Session:
    """One stream from its first block to its end, for the thread that makes it: `with Session(live):`.

    It opens and closes the stream's file. Whatever ends the stream, the file holds all that was written.
    """

    def __init__(self, live: LiveStream) -> None:
        self.live = live
        self.paused = self.stopping = False
        # sent to nobody, it would go to every page of every user
        self._send = PromptServer.instance.send_sync if live.client is not None else None

    @property
    def writer(self) -> Mp4Writer:
        """Where the pictures go."""
        return self.live.writer

    def __enter__(self) -> Session:
        self.writer.__enter__()
        SESSIONS.add(self.live)
        self.tell()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # what fails here is told by closing the file
            with suppress(RuntimeError):
                self.writer.seal()
            self.live.let_go()
            self.writer.__exit__(kind, error, trace)
        except BaseException as why:
            error = why
            raise
        finally:
            self.tell(*ending(error))

    def tell(self, phase: str | None = None, sentence: str = "") -> None:
        """Sends the state to the page that queued the run, in the phase that begins."""
        self.live.change(phase, sentence)
        if self._send:
            self._send(EVENT, self.live.state(prompts=False), self.live.client)

    def goes_on(self) -> bool:
        """Whether another block is to be made; waits while the stream is paused.

        A stop before the first block waits for it: there would be nothing to keep.
        """
        while True:
            self._obey()
            if self.stopping and self.live.block:
                return False
            comfy.model_management.throw_exception_if_processing_interrupted()
            if not self.paused or self.stopping:
                if self.live.phase == PAUSED:
                    self.tell(RUNNING)
                return True
            if self.live.phase != PAUSED:
                self.tell(PAUSED)
            self.live.mailbox.wait(GLANCE_SECONDS)

    def wish(self) -> Message | None:
        """The prompt that is asked for, to be settled in the mailbox."""
        return next(iter(self.live.mailbox.take(("prompt",))), None)

    def note_block(self, frames: int, seconds: float, device: torch.device) -> None:
        """One more block of so many pixel frames was made with so many seconds of work."""
        self.live.note_block(frames, seconds, vram_of(device))
        self.tell()

    def _obey(self) -> None:
        for message in self.live.mailbox.take(("pause", "resume", "stop")):
            if message.do == "stop":
                self.stopping = True
            else:
                self.paused = message.do == "pause"
            self.live.mailbox.settle(message, "done")
            self.live.change()


def client_of_run() -> str | None:
    """The page that queued the run in progress; None where no page did."""
    server = getattr(PromptServer, "instance", None)
    return server.client_id if server else None


def ending(error: BaseException | None) -> tuple[str, str]:
    """(phase, sentence) of a stream that ended so; None: as planned or as a viewer wished."""
    if error is None:
        return ENDED, ""
    if isinstance(error, comfy.model_management.InterruptProcessingException):
        return ENDED, INTERRUPTED
    return FAILED, str(error) or type(error).__name__


def vram_of(device: torch.device) -> dict[str, int] | None:
    """Bytes used and there on a card; None on a processor, whose memory is not the model's alone."""
    if device.type == "cpu":
        return None
    total = int(comfy.model_management.get_total_memory(device))
    return {"used": total - int(comfy.model_management.get_free_memory(device)), "total": total}
