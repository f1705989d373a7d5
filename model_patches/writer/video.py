"""MP4 writer whose file grows during the run: ffmpeg in a process, fed by a thread."""

import logging
import queue
import shutil
import threading
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
from torch import Tensor

from .ffmpeg import Encoder, EncoderError, encode_command, find_ffmpeg
from .fmp4 import FragmentIndex
from .frames import HostFrames
from .parts import Part, find_parts, join_parts, part_path, trim, trim_all
from .pixels import check_size, check_start, to_frames

log = logging.getLogger(__name__)

WHO = "Video writer"
MIN_FREE_BYTES = 64 << 20  # about ten minutes at 832x480
POLL_SECONDS = 0.1  # between checks that the encoder still runs


class Mp4Writer:
    """Writes H.264 in MP4; whatever stops it, the frames written before stay in a playable file.

    While it is open the frames go to `name.part1.mp4`, readable at any time through `index`; closing it, also
    on an error, makes that `name.mp4`. `write` blocks while `queue_chunks` chunks are queued, so memory does
    not grow when the encoder is slow. To resume after a crash, open the path with `start_frame` set to the
    `frames_written` of the snapshot: frames after the snapshot are cut, because the stream generates them
    again, and a new part follows. `metadata` (title, comment, ...) can be extended until the writer closes.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        width: int,
        height: int,
        fps: Fraction | float,
        start_frame: int = 0,
        metadata: Mapping[str, str] | None = None,
        queue_chunks: int = 2,
        keyframe_frames: int | None = None,
        crf: int = 18,
        threads: int = 0,
    ) -> None:
        self.path = Path(path)
        self.width, self.height = check_size(WHO, width, height, multiple=2)
        self.fps = check_fps(fps)
        self.start_frame = check_start(WHO, start_frame)
        self.metadata = dict(metadata or {})
        self.frames_written = start_frame
        self.index: FragmentIndex | None = None  # of the newest part
        self.result: Path | None = None  # the finished video, after closing
        if keyframe_frames is None:
            keyframe_frames = max(1, round(self.fps))  # a late viewer waits at most a second
        self._check_options(
            queue_chunks=(queue_chunks, 1, 64),
            keyframe_frames=(keyframe_frames, 1, 10_000),
            crf=(crf, 0, 51),
            threads=(threads, 0, 64),
        )
        self._command = partial(
            encode_command,
            width=width,
            height=height,
            fps=self.fps,
            keyframe_frames=keyframe_frames,
            crf=crf,
            threads=threads,
        )
        self._program = ""
        self._queue: queue.Queue[HostFrames | threading.Event | None] = queue.Queue(queue_chunks)
        self._thread: threading.Thread | None = None
        self._fault: Exception | None = None
        self._part = 0

    def __enter__(self) -> "Mp4Writer":
        if self._thread:
            raise RuntimeError(f"{WHO}: {self.path.name} was opened before; make another writer.")
        self._program = find_ffmpeg()
        self._part = self._recover_parts() + 1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part_path(self.path, self._part).open("xb").close()
        except OSError as why:
            raise ValueError(
                f"{WHO}: cannot write into {self.path.parent} ({why.strerror}); "
                f"choose a folder that you may write to."
            ) from why
        free = shutil.disk_usage(self.path.parent).free
        if free < MIN_FREE_BYTES:
            part_path(self.path, self._part).unlink()
            raise RuntimeError(
                f"{WHO}: only {free >> 20} MiB are free in {self.path.parent}, and a video needs "
                f"{MIN_FREE_BYTES >> 20} MiB to start; free some space or choose another folder."
            )
        self._thread = threading.Thread(target=self._run, name=f"writer of {self.path.name}", daemon=True)
        self._thread.start()
        return self

    def write(self, pixels_FHWC: HostFrames | Tensor | np.ndarray) -> None:
        """Queues uint8 frames [F, H, W, 3] in [0, 255]; blocks while the queue is full.

        A tensor or an array is copied. What a card has not made yet is waited for in the writer's thread.
        """
        self._check_open()
        frames = to_frames(WHO, pixels_FHWC, self.width, self.height)
        if len(frames):
            self._put(frames)
            self.frames_written += len(frames)

    def seal(self) -> None:
        """Blocks until every frame so far is on disk; the next one starts another part."""
        self._check_open()
        sealed = threading.Event()
        self._put(sealed)
        while not sealed.wait(POLL_SECONDS):
            self._check_open()
        self._check_open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fault = self._stop()
        if fault is None:
            try:
                self._finish()
            except RuntimeError as why:
                fault = why
        if fault is None or fault is error:
            return
        if error is None:
            raise fault
        log.warning("%s", fault)

    def _recover_parts(self) -> int:
        """Cuts the parts of earlier runs to start_frame; returns the last one's number, 0 without any."""
        if self.path.exists():
            raise ValueError(f"{WHO}: {self.path} exists already and stays as it is; choose another name.")
        parts = find_parts(self.path)
        count = sum(part.frames for part in parts)
        if count and not self.start_frame:
            raise ValueError(
                f"{WHO}: {self.path.parent} holds {count} frames of an unfinished {self.path.name} "
                f"({parts[0].path.name}); call finish({str(self.path)!r}) to make a video of them, "
                f"resume that stream, or choose another name."
            )
        if 0 < count < self.start_frame:
            raise ValueError(
                f"{WHO}: the stream resumes at frame {self.start_frame}, but {self.path.parent} holds only "
                f"{count} frames of {self.path.name}; resume an earlier snapshot, or choose another name."
            )
        remaining = trim_all(parts, self.start_frame)
        return remaining[-1].number if remaining else 0

    def _check_options(self, **options: tuple[int, int, int]) -> None:
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"{WHO}: the file's name must end in .mp4, got {self.path.name!r}.")
        for name, (value, least, most) in options.items():
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(
                    f"{WHO}: {name} must be a whole number from {least} to {most}, got {value!r}."
                )

    def _check_open(self) -> None:
        if self._fault:
            raise self._fault
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError(f"{WHO}: {self.path.name} is not open; write inside its `with` block.")

    def _put(self, item: HostFrames | threading.Event | None) -> None:
        while True:
            try:
                return self._queue.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                self._check_open()

    def _stop(self) -> Exception | None:
        """Waits until the thread has written its queue; returns the error that ended it, or None."""
        if self._thread is None:
            return None
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=POLL_SECONDS)
                break
            except queue.Full:
                continue
        self._thread.join()
        return self._fault

    def _finish(self) -> None:
        parts = join_parts(self.path, self.metadata, self._program)
        if self.index:
            self.index.close()
        for part in parts:
            part.path.unlink()
        # a part without frames is not among them
        part_path(self.path, self._part).unlink(missing_ok=True)
        self.result = self.path if parts else None

    def _run(self) -> None:
        """The thread: one part after another, until the writer closes."""
        try:
            while self._write_part():
                pass
        except Exception as why:
            self._fault = self._failure(why)

    def _write_part(self) -> bool:
        """Sends chunks to ffmpeg; returns True when the part is sealed, False when the writer closes."""
        encoder, index = None, None
        while isinstance(item := self._queue.get(), HostFrames):
            if encoder is None or index is None:
                encoder, index = self._open_part()
            try:
                encoder.write(item.read().numpy())
            except EncoderError:
                raise
            except Exception:  # a card that failed before it had made them: the frames before are whole
                encoder.close()
                raise
            index.extend()
        if encoder and index:
            encoder.close()
            index.extend()
        if item is None:
            return False
        item.set()
        return True

    def _open_part(self) -> tuple[Encoder, FragmentIndex]:
        first_frame = self.index.frames if self.index else self.start_frame
        if self.index:
            self.index.close()
            self._part += 1
        path = part_path(self.path, self._part)
        self.index = FragmentIndex(path, first_frame=first_frame)
        return Encoder(self._command(self._program, path)), self.index

    def _failure(self, why: Exception) -> RuntimeError:
        """Cuts the file of a part that failed to complete frames; returns the error for the user."""
        path = part_path(self.path, self._part)
        part = trim(Part(path, self._part, 0)) if path.exists() else Part(path, self._part, 0)
        where = f"{path} holds {part.frames} frames and plays" if part.frames else "it had written no frame"
        step = "Free some space" if "No space left" in str(why) else "Mend that"
        said = str(why).partition("\n")[0].rstrip(". ")
        return RuntimeError(
            f"{WHO}: {said}; {where}. {step}, then resume the stream or call finish({str(self.path)!r})."
        )


def check_fps(fps: Fraction | float) -> Fraction:
    """Returns fps as a fraction with a denominator up to 1001; ValueError outside 0.01 to 1000."""
    if isinstance(fps, bool) or not isinstance(fps, Fraction | int | float) or not 0.01 <= fps <= 1000:
        raise ValueError(f"{WHO}: fps must be from 0.01 to 1000 frames per second, got {fps!r}.")
    return Fraction(fps).limit_denominator(1001)
