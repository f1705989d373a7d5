"""Viewers' side of a run: the generating thread reports its state and takes messages between two blocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from ..writer.video import Mp4Writer
from .live import DISK, ENDED, FAILED, PAUSED, RUNNING, VIEWER, LiveStream, PromptChange
from .mailbox import Message, Redo
from .streams import Streams

POLL_SECONDS = 0.1  # between checks for an interruption while the stream waits
MAX_REASON = 300  # letters of an error that are sent to a viewer
INTERRUPTED = "The run was interrupted; the frames made until then are in the file."


class Session:
    """One stream from its first block to its end, for the generating thread: `with Session(...):`.

    It opens and closes the stream's file, which holds all written frames whatever ends the stream. Three
    functions come from the host. send: pushes a state to a page. check: raises where the run was
    interrupted. vram: {"used", "total"} in bytes, None without a card. Two come from the take, where it keeps
    snapshots. rewind: raises ValueError with a sentence where the take cannot go back so. mark: has
    the next snapshot stay.
    """

    def __init__(
        self,
        live: LiveStream,
        streams: Streams,
        *,
        send: Callable[[dict[str, Any]], None] = lambda state: None,
        check: Callable[[], None] = lambda: None,
        vram: Callable[[], dict[str, int] | None] = lambda: None,
        rewind: Callable[[Redo], None] | None = None,
        mark: Callable[[], None] | None = None,
        can_yield: bool = False,
        lead_seconds: float | None = None,
    ) -> None:
        """can_yield: whoever runs it lets others in when asked, and goes on later. lead_seconds: how far an
        endless stream may run ahead of playback; None: without a limit.
        """
        self.live = live
        self.paused = self.stopping = False  # plain flags, which a signal handler may set too
        self.redo: Redo | None = None  # it ends so that the take goes on from here
        self.yielding = False  # it ends so that others come in between
        self.on_phase: Callable[[str], None] = lambda phase: None  # in the generating thread
        self._rewind, self._mark = rewind, mark
        can = {"redo": rewind, "mark": mark, "yield": can_yield or None}
        live.does = frozenset(do for do, how in can.items() if how is not None)
        self._streams, self._send, self._check, self._vram = streams, send, check, vram
        self._lead_seconds = lead_seconds if live.blocks is None else None
        self._playback_start: float | None = None  # monotonic seconds of the first frame
        self._made = False  # a block

    @property
    def writer(self) -> Mp4Writer:
        """The writer of the stream's file."""
        return self.live.writer

    def __enter__(self) -> Session:
        self.writer.__enter__()
        self._streams.add(self.live)
        self.publish()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self.writer.hurry()
        try:
            # a failure here is raised again when the file closes
            with suppress(RuntimeError):
                self.writer.seal()
            self.live.release()
            self.writer.__exit__(kind, error, trace)
        except BaseException as why:
            error = why
            raise
        finally:
            self.publish(*final_phase(error))

    def publish(self, phase: str | None = None, sentence: str = "") -> None:
        """Sets the phase, if one is passed, and sends the state."""
        self.live.change(phase, sentence)
        if phase is not None:
            self.on_phase(phase)
        self._send(self.live.state(prompts=False))

    def should_continue(self, rest: Callable[[], None] = lambda: None) -> bool:
        """Whether to generate another block; blocks while paused or `lead_seconds` ahead of playback.

        rest: called when a pause begins.

        A stop takes effect after the first block, so the file has at least one. Raises what `check` raises.
        """
        while True:
            self._apply_messages()
            self._heed_disk()
            if self.redo is not None or (self.ending and self._made):
                self.live.goes_on = self.redo is not None or not self.stopping
                return False
            self._check()
            if self.paused and not self.ending:
                if self.live.phase != PAUSED:
                    self.publish(PAUSED)
                    rest()
            elif self.ending or not self._is_ahead():
                if self.live.phase == PAUSED:
                    self.publish(RUNNING)
                return True
            self.live.mailbox.wait(POLL_SECONDS)

    def stop(self, by: str = VIEWER) -> None:
        """Ends the stream after the block that is being made, and keeps it. Any thread.

        by: of VIEWER, DRIFT and DISK; the first one is told.
        """
        self.live.stopped_by = self.live.stopped_by or by
        self.stopping = True

    @property
    def ending(self) -> bool:
        """Whether a viewer asked for the end, after at least one block."""
        return self.stopping or self.yielding

    def next_prompt(self) -> Message | None:
        """The pending prompt message, to be settled by `accept` or `refuse`; None without one."""
        return next(iter(self.live.mailbox.take(("prompt",))), None)

    def refuse(self, message: Message, why: BaseException) -> None:
        """Settles a prompt as refused, with the reason; the stream continues without it, or ended over it."""
        self.live.mailbox.settle(message, "refused", (str(why) or type(why).__name__)[:MAX_REASON])

    def accept(self, message: Message, block: int, first_frame: int) -> None:
        """Settles a prompt as done, from this block and pixel frame of the file on."""
        self.live.mailbox.settle(message, "done", block=block, first_frame=first_frame)

    def note_prompt(self, change: PromptChange) -> None:
        """Reports a prompt change."""
        self.live.note_prompt(change)

    def note_plan(self, blocks: int | None) -> None:
        """Reports the planned number of blocks in the file; None: endless."""
        self.live.blocks = blocks

    def note_block(self, frames: int, seconds: float) -> None:
        """Reports a finished block: its pixel frames and the seconds of work."""
        self._made = True
        self.live.note_block(frames, seconds, self._vram())
        self.publish()

    def tell(self, sentence: str) -> None:
        """Reports what whoever watches should know, while the stream goes on."""
        self.live.notice = sentence
        self.publish()

    def _heed_disk(self) -> None:
        """Stops before the disk is full, so that all of it can be kept."""
        if not self.stopping and (why := self.writer.low_disk):
            self.stop(DISK)
            self.tell(why)

    def _apply_messages(self) -> None:
        for message in self.live.mailbox.take(("pause", "resume", "stop", "mark", "yield", "redo")):
            try:
                self._obey(message)
            except ValueError as why:
                self.refuse(message, why)
            else:
                self.live.mailbox.settle(message, "done", first_frame=message.frame)
            self.live.change()

    def _obey(self, message: Message) -> None:
        """Does what a message asks; ValueError with a sentence where that is not possible."""
        if message.do == "stop":
            self.stop()
        elif message.do == "yield":
            self.yielding = True
        elif message.do == "mark" and self._mark is not None:
            self._mark()
        elif message.do == "redo" and self._rewind is not None:
            self._rewind(message.redo)
            self.redo = message.redo
        else:
            self.paused = message.do == "pause"
            self._playback_start = None

    def _is_ahead(self) -> bool:
        if self._lead_seconds is None:
            return False
        now, shown = time.monotonic(), self.writer.frames_written / self.live.fps
        if self._playback_start is None:
            self._playback_start = now - shown
        return shown > now - self._playback_start + self._lead_seconds


def final_phase(error: BaseException | None) -> tuple[str, str]:
    """(phase, sentence) of a stream that this error ended; None: planned end, or a viewer's stop."""
    if error is None:
        return ENDED, ""
    # interruptions are no Exception: KeyboardInterrupt of Ctrl+C, and the host's own
    if not isinstance(error, Exception):
        return ENDED, INTERRUPTED
    return FAILED, str(error) or type(error).__name__
