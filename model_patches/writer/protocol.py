"""What the pipeline asks of every writer."""

from types import TracebackType
from typing import Protocol

from torch import Tensor


class Writer(Protocol):
    """Takes uint8 frames [F, H, W, 3] in [0, 255] while it is open; what was written before an error is kept.

    Its position in the stream is one number, `frames_written`, so a snapshot of the stream needs no more than
    that to go on: open a writer again with `start_frame` set to it.
    """

    @property
    def frames_written(self) -> int:
        """Frames of the stream taken so far, those of earlier runs included."""
        ...

    def __enter__(self) -> "Writer": ...

    def write(self, pixels_FHWC: Tensor) -> None:
        """Takes the next frames; waits while too many are on their way already."""
        ...

    def seal(self) -> None:
        """Returns when all frames taken so far are safe on disk; call it before a snapshot is saved."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OpenWriter:
    """A writer that somebody else opened and will close."""

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
