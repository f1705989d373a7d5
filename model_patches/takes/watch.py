"""Drift watch: looks at a stream's pictures, and says when they stand still or burn out.

It never makes a stream wait: a thread of its own measures, and what comes while that is late is passed over.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ..writer.frames import HostFrames
from .curve import Curve, CurveFile, Point
from .measures import Seconds
from .verdict import Verdict

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_WAITING = 4  # blocks that wait to be looked at; later ones are passed over until all of them were
Told = Callable[[dict[str, Any]], None]


class Watch:
    """A writer that keeps numbers instead of pictures, see `writer.protocol`: `with Watch(...):`.

    What fails in it is logged once, and it looks no further; the stream goes on.
    """

    def __init__(
        self,
        path: Path | None,
        fps: float,
        time_stride: int,
        *,
        start_frame: int = 0,
        scenes: Iterable[int] = (),
        told: Told = lambda state: None,
        tell: Callable[[str], None] = lambda sentence: None,
        stop: Callable[[], None] | None = None,
    ) -> None:
        """path: of the file beside the take; None: nothing is written. time_stride: pixel frames that one
        latent becomes. start_frame: where a take goes on; what comes before is read from the file.
        scenes: frames from which on another prompt held.

        told: gets the state for viewers, once for every second of video. tell: a warning, for whoever
        watches. stop: asks the stream to end, when a warning comes; None: it goes on. All three are called in
        another thread.
        """
        self.frames_written = start_frame
        self._seconds = Seconds(fps, time_stride)
        self._curve = Curve(self._seconds.frames)
        self._verdict = Verdict(self._seconds.frames, fps)
        self._scenes = deque(sorted(scenes))
        self._file, self._start = None if path is None else CurveFile(path), start_frame
        self._told, self._tell, self._stop = told, tell, stop
        self._waiting: deque[tuple[int, HostFrames]] = deque()
        self._late = self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._look, name="rivulet watch", daemon=True)

    @property
    def state(self) -> dict[str, Any]:
        """The state for viewers, see docs/preview.md."""
        return {**self._curve.told(), "warning": self._verdict.sentence}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def write(self, frames: HostFrames) -> None:
        """Has the next frames looked at, if the thread is not late."""
        with self._changed:
            # what is passed over comes in one piece, so that what is seen does, too
            self._late = bool(self._waiting) if self._late else len(self._waiting) >= MOST_WAITING
            if not (self._late or self._closing):
                self._waiting.append((self.frames_written, frames))
                self._changed.notify()
        self.frames_written += len(frames)

    def begin_scene(self) -> None:
        """The next frames are meant to look different: there is another prompt."""
        self._scenes.append(self.frames_written)

    def seal(self) -> None:
        """Does nothing: nobody waits for this."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Looks at what waits, and closes the file."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _look(self) -> None:
        try:
            for point in self._write(lambda file: file.open(self._start)) or []:
                self._curve.add(point)
                self._judge(point)
            while (due := self._next()) is not None:
                for point in self._seconds.take(due[0], due[1].read().numpy()):
                    self._note(point)
            self._write(CurveFile.flush)
        except Exception as why:  # whatever it is, the video is not to suffer
            log.warning("Drift watch: it looks no further: %s", why)
            with self._changed:
                self._closing = True
                self._waiting.clear()

    def _write(self, do: Callable[[CurveFile], T]) -> T | None:
        """Does it with the file; the first time that this fails there is no file any more."""
        if self._file is None:
            return None
        try:
            return do(self._file)
        except OSError as why:
            log.warning("Drift watch: nothing more is written beside the take: %s", why)
            self._file = None
            return None

    def _next(self) -> tuple[int, HostFrames] | None:
        """The next block and its first frame; None at the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _judge(self, point: Point) -> bool:
        while self._scenes and self._scenes[0] <= point.frame:
            self._scenes.popleft()
            self._verdict.begin_scene()
        return self._verdict.take(point)

    def _note(self, point: Point) -> None:
        self._curve.add(point)
        self._write(lambda file: file.add(point))
        warned = self._judge(point)
        self._told(self.state)
        if warned:
            log.warning("Drift watch: %s", self._verdict.sentence)
            self._tell(self._verdict.sentence)
            if self._stop is not None:
                self._stop()
