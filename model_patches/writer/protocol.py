"""Interface between the pipeline and every writer."""

from types import TracebackType
from typing import Protocol

from torch import Tensor


class Writer(Protocol):
    """Context manager that writes uint8 frames [F, H, W, 3] in [0, 255]; an error loses no written frame.

    Its position in the stream is one number, `frames_written`; to resume from a snapshot, open a writer with
    `start_frame` set to it.
    """

    @property
    def frames_written(self) -> int:
        """Frames of the stream written so far, earlier runs included."""
        ...

    def __enter__(self) -> "Writer": ...

    def write(self, pixels_FHWC: Tensor) -> None:
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

    def write(self, pixels_FHWC: Tensor) -> None:
        self._writer.write(pixels_FHWC)

    def seal(self) -> None:
        self._writer.seal()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stays open."""
