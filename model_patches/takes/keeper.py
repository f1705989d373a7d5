"""Snapshots while a take is made: captured between two blocks, written by a thread of their own.

A snapshot is written once the video holds all the frames that it speaks of. What fails here is told once, and
the video goes on: it is whole without snapshots.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

from ..reason import reason_of
from ..stream.caller import Caller
from ..stream.recovery import capture_in_any_case
from ..stream.snapshot import Captured, write
from ..stream.state import StreamState
from ..stream.timeline import Prompt as TimedPrompt
from ..vae.decoder import StreamDecoder
from .folder import FAILED, PLANNED, STOPPED, About, Ended, TakeFolder
from .picture import NewestPicture, write_picture
from .thin import to_drop
from .timeline_file import Event, append, event_of, read

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0  # of video between two snapshots
BUDGET_BYTES = 4 << 30  # of one take's snapshots
# a drive that is made for 600 TB of writing lasts for more than a year of streams without a pause
WEAR_BYTES_PER_SECOND = 16 << 20
REST_SECONDS = 60.0  # after a fault, until the next try
MAX_SENTENCE = 500  # letters of an error that take.json has
SPARE_BYTES = 1 << 20  # of the disk, for what lies beside the last snapshot
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Due:
    """A captured state on its way to the disk."""

    captured: Captured
    frames: int  # of the file, all of which must be on disk before
    marked: bool


class _Newest:
    """Room for one that waits; a newer one takes its place. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: _Due | None = None
        self._ended = False
        self._changed = threading.Condition()

    @property
    def waits(self) -> bool:
        """Whether one waits."""
        return self._waiting is not None

    def put(self, due: _Due) -> None:
        """Has it wait."""
        with self._changed:
            self._waiting = due
            self._changed.notify_all()

    def end(self) -> None:
        """After the one that waits no other comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def take(self) -> _Due | None:
        """The one that waits, once there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._ended)
            due, self._waiting = self._waiting, None
            self._changed.notify_all()
            return due


class OpenVideo(Protocol):
    """What a keeper asks of a video's writer."""

    @property
    def start_frame(self) -> int:
        """Frame of the file that this run began with."""
        ...

    def seal(self) -> None:
        """Blocks until all frames that were given are on disk. RuntimeError where that cannot be."""
        ...

    def wait_on_disk(self, frames: int) -> bool:
        """Blocks until the file holds so many frames; False where it ended before. Any thread."""
        ...

    def reserve(self, count: int) -> None:
        """Keeps so many bytes of the disk for the last snapshot."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """How many snapshots a take gets."""

    every_seconds: float = EVERY_SECONDS  # of video; more where the drive would be written to without a rest
    budget_bytes: int = BUDGET_BYTES
    bytes_per_second: float = WEAR_BYTES_PER_SECOND
    stays: bool = True  # after a planned end too, so that it can be redone from any second


class Keeper:
    """The snapshots of one run of a take: `with Keeper(...):` around the run, inside the writer's `with`.

    `keep` and `on_prompt` are for `pipeline.run`, `pictures` is one of its writers.
    """

    def __init__(
        self,
        caller: Caller,
        decoder: StreamDecoder,
        writer: OpenVideo,
        folder: TakeFolder,
        about: About,
        policy: Policy | None = None,
        tell: Told = lambda sentence: None,
        *,
        private: bool = False,
    ) -> None:
        """about: with how it ended before. tell: takes a sentence for whoever watches, from any thread.

        private: what is written has no prompt as a text.
        """
        self.stopped = False  # whoever watches ended the run
        self.pictures = NewestPicture(writer.start_frame)
        self._caller, self._decoder, self._writer, self._folder = caller, decoder, writer, folder
        self._about, self._policy, self._tell = about, policy or Policy(), tell
        self._private = private
        self._newest: StreamState | None = None
        self._last: tuple[int, int] | None = None  # block and frame of the newest snapshot, queued or written
        self._resting_until = 0.0  # monotonic seconds
        self._mark = self._goes_on = False
        self._queue = _Newest()
        name = f"snapshots of {folder.video.name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._said: set[str] = set()

    def __enter__(self) -> Keeper:
        try:
            self._folder.open()
            self._folder.write_about(replace(self._about, ended=None))
        except OSError as why:
            self._say("no snapshots are kept", why)
        here = self._folder.snapshots()
        self._last = here[-1].order if here else None
        self._goes_on = bool(here)
        self._thread.start()
        return self

    def keep(self, state: StreamState) -> None:
        """Takes the newest state; where a snapshot is due, its copy is made now and written later."""
        self._newest = state
        if self._last is None:
            self._note(Event(state.block, state.ledger.written, None, "", state.config.seed))
        if self._last is None or self._mark or self._is_time(state):
            self._capture(state, marked=self._mark)

    def on_prompt(self, state: StreamState, prompt: TimedPrompt) -> None:
        """Notes another prompt, and has the state that begins with it kept as a marked snapshot."""
        event = event_of(state, prompt.mode)
        self._note(replace(event, prompt=None) if self._private else event)
        self._mark = self._mark or state.block > 0

    def mark(self) -> None:
        """Has the next state kept as a marked snapshot, which goes last. Any thread."""
        self._mark = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the last snapshot, of the newest state, once its frames are on disk."""
        try:
            self._keep_last()
        finally:
            self._queue.end()
            self._thread.join()
        if error is None:
            ended = Ended(STOPPED if self.stopped else PLANNED)
        elif self._goes_on and self._newest is None:
            ended = self._about.ended  # nothing was made, so the take is as it was
        else:  # an interruption is no Exception
            ended = Ended(FAILED if isinstance(error, Exception) else STOPPED, str(error)[:MAX_SENTENCE])
        self._close(ended)

    def _keep_last(self) -> None:
        state = self._newest
        if state is None:
            return
        try:
            self._writer.seal()
        except RuntimeError:
            return  # told by the writer; what is on disk has its snapshots
        if (state.block, state.ledger.written) != self._last:
            self._capture(state, marked=False)

    def _close(self, ended: Ended | None) -> None:
        try:
            done = self._newest is not None and ended == Ended(PLANNED)
            if done and not self._policy.stays:
                self._folder.remove()
            else:
                self._folder.write_about(replace(self._about, ended=ended))
        except OSError as why:
            self._say("how the take ended was not noted", why)

    def _is_time(self, state: StreamState) -> bool:
        """Whether enough of the video was made since the newest snapshot, and the drive has rested."""
        assert self._last is not None
        frames = self._policy.every_seconds * self._about.fps
        if state.ledger.written < self._last[1] + frames or self._queue.waits:
            return False
        return time.monotonic() >= self._resting_until

    def _capture(self, state: StreamState, *, marked: bool) -> None:
        if self._private:
            state = replace(state, text=None)
        try:
            captured = capture_in_any_case(self._caller, state, self._decoder)
        except (OSError, RuntimeError, ValueError, MemoryError) as why:
            return self._say("a snapshot could not be made", why)
        self._mark = False
        self._last = state.block, state.ledger.written
        self._resting_until = time.monotonic() + captured.bytes / self._policy.bytes_per_second
        self._writer.reserve(captured.bytes + SPARE_BYTES)
        self._queue.put(_Due(captured, state.ledger.written - state.ledger.file_frame, marked))

    def _note(self, event: Event) -> None:
        path = self._folder.timeline
        try:
            if event not in read(path):
                append(path, event)
        except OSError as why:
            self._say("a prompt was not noted", why)

    def _run(self) -> None:
        """The thread: one snapshot after another, each when its frames are on disk."""
        while (due := self._queue.take()) is not None:
            if self._writer.wait_on_disk(due.frames):
                self._write(due)

    def _write(self, due: _Due) -> None:
        captured, folder = due.captured, self._folder
        path = folder.snapshot(captured.block, captured.frame, marked=due.marked)
        try:
            try:
                write(captured, path)
            except OSError:
                self._make_room(captured.bytes)
                write(captured, path)
            self._thin(self._policy.budget_bytes)
            picture_HWC = self.pictures.last_HWC
            if picture_HWC is not None:
                write_picture(folder.picture, picture_HWC)
        except Exception as why:  # whatever it is, the video goes on, and so do later snapshots
            self._say(f"the snapshot after block {captured.block} was not written", why)

    def _make_room(self, count: int) -> None:
        """For a folder that somebody deleted, and for a disk that is full: older snapshots go first."""
        if not self._folder.about.exists():
            self._folder.open()
            self._folder.write_about(replace(self._about, ended=None))
        self._thin(sum(each.bytes for each in self._folder.snapshots()) - count)

    def _thin(self, budget_bytes: int) -> None:
        for each in to_drop(self._folder.snapshots(), budget_bytes):
            each.path.unlink(missing_ok=True)

    def _say(self, what: str, why: BaseException) -> None:
        """Tells a fault of this kind, the first time that it comes."""
        sentence = (
            f"{what}: {reason_of(why)}. The video goes on and is whole; until a snapshot can be kept "
            f"again, the take resumes from the one before, if there is one."
        )
        log.warning("Snapshots of %s: %s", self._folder.video.name, sentence)
        self._resting_until = time.monotonic() + REST_SECONDS
        if what.split(" after ")[0] not in self._said:
            self._said.add(what.split(" after ")[0])
            self._tell(f"Snapshots: {sentence}")
