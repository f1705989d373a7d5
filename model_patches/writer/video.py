"""MP4 writer whose file grows during the run: ffmpeg in a process, fed by a thread."""

import logging
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from queue import Full
from types import TracebackType

import numpy as np
from torch import Tensor

from .disk import Room
from .encoder import HANG_SECONDS, encode_command
from .encoding import USUAL, Encoding
from .feeding import Feed
from .ffmpeg import find_ffmpeg
from .fmp4 import FragmentIndex
from .frames import HostFrames
from .joining import join_parts, keep_single
from .lock import FileLock
from .options import check_fps, check_limits, check_numbers
from .parts import RECOVER, NoRoomError, Part, find_parts
from .pixels import check_size, check_start, to_frames
from .progress import POLL_SECONDS, Progress, stop
from .reopen import kept_coding, reopen
from .sound import Sound, forget, prepare
from .text import WHO, check_path

log = logging.getLogger(__name__)

HURRY_SECONDS = 5.0  # for an ffmpeg that does nothing, where someone waits for the end of the program


class Mp4Writer:
    """Writes H.264 in MP4; whatever stops it, the frames written before stay in a playable file.

    While it is open the frames go to `name.part1.mp4`, readable at any time through `index`; closing it, also
    on an error, makes that `name.mp4`. `write` blocks while `queue_chunks` chunks are queued, so memory does
    not grow when the encoder is slow. To go on with a video, finished or not, open its path with
    `start_frame`: it is cut to so many frames once the first new one comes, and new parts follow; a run that
    fails before leaves it as it was. One writer at a time has a path: others get LockedError. An ffmpeg that
    dies or hangs costs no frame: another goes on in a part of its own, which changes the file but not the
    pictures that go in. `metadata` (title, comment, ...) stands in every part from its first byte on.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        width: int,
        height: int,
        fps: Fraction | float,
        start_frame: int = 0,
        go_on: bool | None = None,
        lock: FileLock | None = None,
        metadata: Mapping[str, str] | None = None,
        queue_chunks: int = 2,
        keyframe_frames: int | None = None,
        encoding: Encoding = USUAL,
        sound: Sound | None = None,
        threads: int = 0,
        part_hours: float | None = None,
        part_gigabytes: float | None = None,
        hang_seconds: float = HANG_SECONDS,
        tell: Callable[[str], None] = lambda sentence: log.warning("%s: %s", WHO, sentence),
    ) -> None:
        """go_on: whether a video that is there is gone on with; None: where start_frame is not 0. lock: of
        this path, held already, which is given back when the writer closes. encoding, sound: of a new video,
        one that is gone on with keeps its own.

        part_hours, part_gigabytes: where a part ends; the parts of such a video stay apart when it has
        several. hang_seconds: after so long without a byte taken ffmpeg is killed. tell: gets sentences for
        whoever runs this.
        """
        self.path = check_path(WHO, Path(path))
        self.width, self.height = check_size(WHO, width, height, multiple=2)
        self.fps = check_fps(fps)
        self.start_frame = check_start(WHO, start_frame)
        self.metadata = dict(metadata or {})
        self.frames_written = start_frame
        self.result: Path | None = None  # the finished video, or its first file, after closing
        self.files: list[Path] = []  # all of it, after closing: the finished video, or its parts
        if keyframe_frames is None:
            keyframe_frames = max(1, round(self.fps))  # a late viewer waits at most a second
        check_numbers(
            queue_chunks=(queue_chunks, 1, 64),
            keyframe_frames=(keyframe_frames, 1, 10_000),
            threads=(threads, 0, 64),
        )
        self.coding = encoding.coding(width, height)  # an older file's, once it is gone on with
        self._limits = check_limits(self.fps, part_hours, part_gigabytes)
        self._sound = sound
        self._go_on = start_frame > 0 if go_on is None else go_on
        self._encode = partial(
            encode_command,
            width=width,
            height=height,
            fps=self.fps,
            keyframe_frames=keyframe_frames,
            threads=threads,
        )
        self._queue_chunks, self._hang_seconds, self._tell = queue_chunks, hang_seconds, tell
        self._program = ""
        self._lock, self._room = lock or FileLock(self.path), Room(self.path.parent, tell)
        self._feed: Feed | None = None

    @property
    def index(self) -> FragmentIndex | None:
        """The index of the newest part, None before the first frame."""
        return self._feed.index if self._feed else None

    @property
    def frames_on_disk(self) -> int:
        """Frames of the stream that are whole in files, earlier runs included."""
        return self._feed.on_disk.frames if self._feed else self.start_frame

    def wait_on_disk(self, frames: int) -> bool:
        """Blocks until so many frames of the stream survive a power cut; False where the writer ended before.

        For any thread; it holds none of the others up. ffmpeg writes a frame when it gets the next one, or
        when the part is sealed.
        """
        return self._feed is not None and self._feed.on_disk.wait(frames)

    def describe(self, tags: Mapping[str, str]) -> None:
        """Adds tags to those of the finished file, and of parts that begin after this; any thread may."""
        self.metadata = {**self.metadata, **tags}

    @property
    def low_disk(self) -> str:
        """Why a run should stop and keep what it made, before the disk is full; else ""."""
        return self._room.low

    def reserve(self, count: int) -> None:
        """Keeps so many bytes of the disk for what else is written at the end, such as a snapshot."""
        self._room.reserve_bytes = count

    def __enter__(self) -> "Mp4Writer":
        if self._feed:
            raise RuntimeError(f"{WHO}: {self.path.name} was opened before; make another writer.")
        self._program = find_ffmpeg()
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as why:
            raise ValueError(
                f"{WHO}: cannot write into {folder} ({why.strerror}); choose a folder that you may write to."
            ) from why
        try:
            self._room.check_start()
            self._feed = self._start(self._reopen())
        except BaseException:
            self._lock.release()
            raise
        return self

    def _reopen(self) -> Callable[[], int]:
        if self._go_on:
            self.coding = kept_coding(self.path, self.coding, self._tell)
        self.coding.check(self._program, self.width, self.height, self.fps)
        size = {"width": self.width, "height": self.height, "factor": self.coding.factor, "fps": self.fps}
        place = {"program": self._program, "go_on": self._go_on, "tell": self._tell}
        cut = reopen(self.path, self.start_frame, **size, **place)
        prepare(self._program, self.path, self._sound, go_on=self._go_on)
        return cut

    def _start(self, cut: Callable[[], int]) -> Feed:
        feed = Feed(
            self.path,
            cut=cut,
            first_frame=self.start_frame,
            command=lambda path, tags: self._encode(self._program, path, self.coding, tags=tags),
            metadata=lambda: dict(self.metadata),
            queue_chunks=self._queue_chunks,
            room=self._room,
            tell=self._tell,
            limits=self._limits,
            hang_seconds=self._hang_seconds,
        )
        feed.start()
        return feed

    def write(self, pixels_FHWC: HostFrames | Tensor | np.ndarray) -> None:
        """Queues uint8 frames [F, H, W, 3] in [0, 255]; blocks while the queue is full.

        A tensor or an array is copied. What a card has not made yet is waited for in the writer's thread.
        DiskLowError, and nothing is queued, where the disk is nearly full.
        """
        feed = self._opened()
        frames = to_frames(WHO, pixels_FHWC, self.width, self.height)
        if len(frames):
            self._room.refuse()
            self._put(feed, frames)
            self.frames_written += len(frames)

    def seal(self) -> None:
        """Blocks until every frame so far is on disk; the next one starts another part."""
        sealed = threading.Event()
        feed = self._opened()
        self._put(feed, sealed)
        progress = Progress(feed)
        while not sealed.wait(POLL_SECONDS):
            self._opened()
            progress.check()
        self._opened()

    def hurry(self) -> None:
        """Gives up after a few seconds, from now on, what would be waited for much longer."""
        self._hang_seconds = min(self._hang_seconds, HURRY_SECONDS)
        if self._feed:
            self._feed.hurry(self._hang_seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl+C: someone waits for the end
            self.hurry()
        try:
            fault = (stop(self._feed) if self._feed else None) or self._finished(begun=error is None)
        finally:
            self._lock.release()
        if fault is None or fault is error:
            return
        if error is None:
            raise fault
        log.warning("%s", fault)

    def _opened(self) -> Feed:
        """The open writer's feed; raises what ended it."""
        feed = self._feed
        if feed and feed.fault:
            raise feed.fault
        if feed is None or not feed.running:
            raise RuntimeError(f"{WHO}: {self.path.name} is not open; write inside its `with` block.")
        return feed

    def _put(self, feed: Feed, item: HostFrames | threading.Event | None) -> None:
        progress = Progress(feed)
        while True:
            try:
                return feed.items.put(item, timeout=POLL_SECONDS)
            except Full:
                self._opened()
                progress.check()

    def _finished(self, begun: bool) -> RuntimeError | None:
        try:
            if self._feed and begun:
                self._feed.begin()
            self._finish()
        except RuntimeError as why:
            return why
        return None

    def _finish(self) -> None:
        if self.index:
            self.index.close()
        parts = [part for part in find_parts(self.path) if part.frames]
        if len(parts) > 1 and self._limits.any:
            return self._stay(parts, "as it was asked for")
        if not parts and self._go_on and self.path.is_file():  # nothing came of going on with it
            self.result, self.files = self.path, [self.path]
            return
        try:
            self.result = join_parts(self.path, self.metadata, self._program, self._hang_seconds)
        except NoRoomError as why:
            if len(parts) > 1:
                return self._stay(parts, str(why))
            self.result = keep_single(self.path)
            self._tell(f"{self.result} is kept as it grew, with the tags that it began with: {why}")
        else:
            forget(self.path)
        self.files = [self.result] if self.result else []
        if self.result not in (None, self.path):
            self._tell(f"{self.path.name} was there by now and stays as it is; this video is {self.result}.")

    def _stay(self, parts: list[Part], why: str) -> None:
        self.files = [part.path for part in parts]
        self.result = self.files[0]
        self._tell(
            f"{self.path.name} stays in {len(parts)} parts, {parts[0].path.name} to {parts[-1].path.name} "
            f"({why}); `{RECOVER} {self.path}` joins them."
        )
