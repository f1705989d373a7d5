"""Interface between the pipeline and every writer."""

from types import TracebackType
from typing import Protocol

from .frames import HostFrames


class Writer(Protocol):
    """Context manager that writes frames one after the other; an error loses no written frame.

    Frames may still be on their way from a card: a writer reads them where it may wait, in its thread. Its
    position in the stream is one number, `frames_written`; to resume from a snapshot, open a writer with
    `start_frame` set to it.
    """

    @property
    def frames_written(self) -> int:
        """Frames of the stream written so far, earlier runs included."""
        ...

    def __enter__(self) -> "Writer": ...

    def write(self, frames: HostFrames) -> None:
        """Queues the next frames; blocks while the queue is full."""
        ...

    def seal(self) -> None:
        """Blocks until all frames written so far are on disk; call it before saving a snapshot."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OpenWriter:
    """A writer whose `with` block belongs to the caller: leaving this one does not close it."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    @property
    def frames_written(self) -> int:
        return self._writer.frames_written

    def __enter__(self) -> "OpenWriter":
        return self

    def write(self, frames: HostFrames) -> None:
        self._writer.write(frames)

    def seal(self) -> None:
        self._writer.seal()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stays open."""
