"""What the thread that makes a stream tells those who watch it, and asks of them between two blocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from ..writer.video import Mp4Writer
from .live import ENDED, FAILED, PAUSED, RUNNING, LiveStream, Told
from .mailbox import Message
from .streams import Streams

GLANCE_SECONDS = 0.1  # how soon a waiting stream sees that the run was interrupted
LONGEST_REASON = 300  # letters of an error that are told to a viewer
INTERRUPTED = "The run was interrupted; what was made until then is kept."


class Session:
    """One stream from its first block to its end, for the thread that makes it: `with Session(...):`.

    It opens and closes the stream's file. Whatever ends the stream, the file holds all that was written.
    The host gives three functions. send: takes each new state, for a page that need not ask. check: raises
    where the run was interrupted. vram: {"used", "total"} in bytes, None without a card.
    """

    def __init__(
        self,
        live: LiveStream,
        streams: Streams,
        *,
        send: Callable[[dict[str, Any]], None] = lambda state: None,
        check: Callable[[], None] = lambda: None,
        vram: Callable[[], dict[str, int] | None] = lambda: None,
        lead_seconds: float | None = None,
    ) -> None:
        """lead_seconds: how far a stream without end may run ahead of the clock; None: as far as it can."""
        self.live = live
        self.paused = self.stopping = False  # plain flags, which a signal handler may set too
        self._streams, self._send, self._check, self._vram = streams, send, check, vram
        self._lead_seconds = lead_seconds if live.blocks is None else None
        self._clock_began: float | None = None  # when the first picture would have been shown

    @property
    def writer(self) -> Mp4Writer:
        """Where the pictures go."""
        return self.live.writer

    def __enter__(self) -> Session:
        self.writer.__enter__()
        self._streams.add(self.live)
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
        """Sends the state, in the phase that begins."""
        self.live.change(phase, sentence)
        self._send(self.live.state(prompts=False))

    def goes_on(self) -> bool:
        """Whether another block is to be made; waits while the stream is paused, or far ahead of the clock.

        A stop before the first block waits for it: there would be nothing to keep.
        """
        while True:
            self._obey()
            if self.stopping and self.live.block:
                return False
            self._check()
            if self.paused and not self.stopping:
                if self.live.phase != PAUSED:
                    self.tell(PAUSED)
            elif self.stopping or not self._is_ahead():
                if self.live.phase == PAUSED:
                    self.tell(RUNNING)
                return True
            self.live.mailbox.wait(GLANCE_SECONDS)

    def wish(self) -> Message | None:
        """The prompt that is asked for, to be settled in the mailbox."""
        return next(iter(self.live.mailbox.take(("prompt",))), None)

    def refuse(self, message: Message, why: Exception) -> None:
        """Tells the viewer why the prompt cannot be; the stream goes on without it."""
        self.live.mailbox.settle(message, "refused", (str(why) or type(why).__name__)[:LONGEST_REASON])

    def accept(self, message: Message, block: int, first_frame: int) -> None:
        """Tells the viewer from which block and pixel frame of the file on the prompt is seen."""
        self.live.mailbox.settle(message, "done", block=block, first_frame=first_frame)

    def note_prompt(self, told: Told) -> None:
        """A prompt takes effect."""
        self.live.note_prompt(told)

    def note_plan(self, blocks: int | None) -> None:
        """The file will have so many blocks; None: as many as are made until it is stopped."""
        self.live.blocks = blocks

    def note_block(self, frames: int, seconds: float) -> None:
        """One more block of so many pixel frames was made with so many seconds of work."""
        self.live.note_block(frames, seconds, self._vram())
        self.tell()

    def _obey(self) -> None:
        for message in self.live.mailbox.take(("pause", "resume", "stop")):
            if message.do == "stop":
                self.stopping = True
            else:
                self.paused = message.do == "pause"
                self._clock_began = None
            self.live.mailbox.settle(message, "done")
            self.live.change()

    def _is_ahead(self) -> bool:
        if self._lead_seconds is None:
            return False
        now, shown = time.monotonic(), self.writer.frames_written / self.live.fps
        if self._clock_began is None:
            self._clock_began = now - shown
        return shown > now - self._clock_began + self._lead_seconds


def ending(error: BaseException | None) -> tuple[str, str]:
    """(phase, sentence) of a stream that ended so; None: as planned or as a viewer wished."""
    if error is None:
        return ENDED, ""
    # whoever interrupts raises what nothing takes for a fault: Ctrl+C does, and so does the host
    if not isinstance(error, Exception):
        return ENDED, INTERRUPTED
    return FAILED, str(error) or type(error).__name__
