"""The thread of a writer: chunks into an ffmpeg, part after part, and a new ffmpeg where one dies."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .copying import working_files
from .disk import FramesOnDisk, Room
from .encoder import HANG_SECONDS, DiskFullError, Encoder, EncoderError
from .fmp4 import FragmentIndex
from .frames import HostFrames
from .options import UNLIMITED, Limits
from .parts import RECOVER, Part, files_of, find_parts, part_path, trim
from .tags import TagsFile
from .text import WHO

log = logging.getLogger(__name__)

HELD_BYTES = 64 << 20  # of frames that ffmpeg has, and the disk not yet, beside the newest chunk
DEATHS = 3  # of ffmpeg, one after the other, without one more frame on disk
WAIT_SECONDS, IDLE_SECONDS = 0.005, 0.2


@dataclass(frozen=True, slots=True)
class _Held:
    first_frame: int
    array: np.ndarray  # uint8 [F, H, W, 3]

    @property
    def end(self) -> int:
        return self.first_frame + len(self.array)


class Feed:
    """Takes chunks from a queue and encodes them; what is not whole on disk is kept, and encoded again.

    `fault` is the error that ended it.
    """

    def __init__(
        self,
        path: Path,
        *,
        cut: Callable[[], int],
        first_frame: int,
        command: Callable[[Path, Path | None], list[str]],
        metadata: Callable[[], Mapping[str, str]],
        queue_chunks: int,
        room: Room,
        tell: Callable[[str], None],
        limits: Limits = UNLIMITED,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        """cut: cuts what is there to first_frame, once a frame has come, and gives its last part's number.
        command: makes ffmpeg's, for the paths of a part and of its tags, which metadata gives."""
        self.path, self.part = path, 0
        self.items: queue.Queue[HostFrames | threading.Event | None] = queue.Queue(queue_chunks)
        self.index: FragmentIndex | None = None  # of the newest part
        self.fault: Exception | None = None
        self.on_disk = FramesOnDisk(path.parent, first_frame)
        self.steps = 0  # grows while anything goes on
        self._encoder: Encoder | None = None
        # frames of the stream: taken, given to this ffmpeg, whole on disk
        self._next = self._sent = self._whole = first_frame
        self._held: deque[_Held] = deque()
        self._deaths, self._bytes = 0, 0
        self._abandoned = False
        self._cut, self._command, self._room, self._tell = cut, command, room, tell
        self._metadata, self._tags = metadata, TagsFile(working_files(path)[2])
        self._limits, self.hang_seconds = limits, hang_seconds
        self._thread = threading.Thread(target=self._run, name=f"writer of {path.name}", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        for earlier in files_of(self.path):
            self.on_disk.add(earlier.path)
        self._thread.start()

    def begin(self) -> None:
        """Cuts what is there of the video, the first time: its thread does it, or whoever has joined that."""
        if not self.part:
            self.part = self._cut() + 1
            for earlier in find_parts(self.path):
                self.on_disk.add(earlier.path)

    @property
    def running(self) -> bool:
        """Whether it takes chunks."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> bool:
        """Waits so long for the end of the thread; returns whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def hurry(self, seconds: float) -> None:
        """Waits no longer than this for an ffmpeg that does nothing, from now on."""
        self.hang_seconds = seconds
        if self._encoder:
            self._encoder.hang_seconds = seconds

    def abandon(self) -> None:
        """Ends ffmpeg and the thread at once; frames that are not whole on disk are given up."""
        self._abandoned = True
        if self._encoder:
            self._encoder.process.kill()

    def _run(self) -> None:
        try:
            while self._take(self._next_item()):
                self.steps += 1
        except BaseException as why:  # whatever it is, the generating thread is to hear of it
            try:
                self.fault = self._failure(why)
            except BaseException as worse:
                self.fault = RuntimeError(f"{WHO}: {_words(why)}; and then: {_words(worse)}.")
                log.exception("%s: its files could not be looked after", WHO)
        finally:
            if self._encoder:
                self._encoder.kill()
            self._tags.remove()
            self.on_disk.end()

    def _next_item(self) -> HostFrames | threading.Event | None:
        """Waits for what comes next; notices meanwhile that ffmpeg has died."""
        while True:
            try:
                return self.items.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if self._encoder and self._encoder.process.poll() is not None:
                    self._bury(self._encoder.exit_error())
                    self._encode()

    def _take(self, item: HostFrames | threading.Event | None) -> bool:
        """Encodes a chunk, or ends the part; returns False where nothing more comes."""
        if isinstance(item, HostFrames):
            try:
                array = item.read().numpy()
            except Exception:  # a card that failed before it had made them: the frames before are whole
                self._end_part()
                raise
            self._held.append(_Held(self._next, array))
            self._next += len(array)
            self._encode()
            if self._is_full():
                self._end_part()
            return True
        self._end_part()
        if item is not None:
            item.set()
        return item is not None

    def _encode(self) -> None:
        """Sends what is held and not sent; once ffmpeg dies, all that is not whole on disk again."""
        while True:
            try:
                encoder = self._encoder or self._open_part()
                for held in list(self._held):
                    start = max(0, self._sent - held.first_frame)
                    if start < len(held.array):
                        encoder.write(held.array[start:])
                        self._sent = held.end
                return self._let_go(encoder)
            except EncoderError as why:
                self._bury(why)

    def _let_go(self, encoder: Encoder) -> None:
        """Forgets frames that are whole on disk; waits where ffmpeg holds too many."""
        self._forget()
        waited = 0.0
        whole = self._whole
        while sum(held.array.nbytes for held in list(self._held)[:-1]) > HELD_BYTES:
            if encoder.process.poll() is not None:
                raise encoder.exit_error()
            if waited > self.hang_seconds:
                raise encoder.hung("wrote no frame")
            time.sleep(WAIT_SECONDS)
            waited += WAIT_SECONDS
            self._forget()
            if self._whole > whole:
                whole, waited = self._whole, 0.0

    def _forget(self) -> None:
        assert self.index
        self.index.extend()
        if self.index.init:
            self._tags.remove()
        if self.index.frames > self._whole:
            self._whole, self._deaths = self.index.frames, 0
        while self._held and self._held[0].end <= self._whole:
            self._held.popleft()
        self._room.look(self._bytes + self.index.end, joins=not self._limits.any)

    def _is_full(self) -> bool:
        index = self.index
        if index is None or self._encoder is None:
            return False
        frames, size = self._limits.frames, self._limits.bytes
        return (frames is not None and self._next - index.first_frame >= frames) or (
            size is not None and index.end >= size
        )

    def _open_part(self) -> Encoder:
        if self._abandoned:
            raise EncoderError("it was ended while frames were on their way")
        self.begin()
        path = part_path(self.path, self.part)
        index = FragmentIndex(path, first_frame=self._whole)
        # where two have died without a frame, the third goes without what may be to blame
        tags = self._tags.write(self._metadata()) if self._deaths + 1 < DEATHS else None
        self._encoder = Encoder(self._command(path, tags), path, self.hang_seconds)
        self.index, self._sent = index, self._whole
        self.on_disk.add(path, index)
        return self._encoder

    def _end_part(self) -> None:
        """Closes the part, with all of its frames whole on disk."""
        while self._encoder:
            try:
                self._encoder.close()
                self._forget()
                if self._held:
                    raise EncoderError(f"ffmpeg ended without {self._held[-1].end - self._whole} frames")
                self._next_part()
            except EncoderError as why:
                self._bury(why)
                if self._held:
                    self._encode()

    def _next_part(self) -> None:
        if self.index:
            self._bytes += self.index.end
            self.index.close()
        self._encoder = None
        self.part += 1

    def _bury(self, why: EncoderError) -> None:
        """Keeps the whole frames of a part whose ffmpeg died; raises where another would die too."""
        if self._encoder:
            self._encoder.kill()
            self._forget()
        self._deaths, self.steps = self._deaths + 1, self.steps + 1
        if isinstance(why, DiskFullError) or self._abandoned or self._deaths >= DEATHS:
            raise why
        log.warning(
            "%s: %s; another ffmpeg goes on from frame %d, nothing is lost.", WHO, _words(why), self._whole
        )
        if self._encoder:
            path = part_path(self.path, self.part)
            self._next_part()
            with suppress(OSError):  # where it is open elsewhere, joining cuts it
                trim(Part(path, self.part - 1, 0))

    def _failure(self, why: BaseException) -> RuntimeError:
        """Cuts the file of a part that failed to whole frames; returns the error for the user."""
        if self._encoder:
            self._encoder.kill()
        newest = part_path(self.path, self.part)
        if newest.exists():
            with suppress(OSError):
                trim(Part(newest, self.part, 0))
        parts = [part for part in files_of(self.path) if part.frames]
        frames = sum(part.frames for part in parts)
        where = "it had written no frame"
        if len(parts) == 1:
            where = f"{parts[0].path} holds {frames} frames and plays"
        elif parts:
            names = f"{parts[0].path.name} to {parts[-1].path.name} in {self.path.parent}"
            where = f"{names} hold {frames} frames and play"
        step = "Free some space" if isinstance(why, DiskFullError) else "Mend that"
        return RuntimeError(
            f"{WHO}: {_words(why)}; {where}. {step}, then go on with the take, or run "
            f"`{RECOVER} {self.path}`."
        )


def _words(why: BaseException) -> str:
    """The first line of an error; its kind, where it says nothing."""
    return str(why).partition("\n")[0].rstrip(". ") or type(why).__name__
