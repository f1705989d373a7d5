"""Frames handed to a function of the caller's: a preview, a network, a test."""

from collections.abc import Callable
from types import TracebackType

import numpy as np
from torch import Tensor

from .pixels import as_frames, checked_size, checked_start

WHO = "Callback writer"


class CallbackWriter:
    """Calls `on_frames(first_frame, pixels_FHWC)` with every chunk, as a uint8 array [F, H, W, 3] of its own.

    It runs on the thread that makes the frames, so a slow function slows the stream.
    """

    def __init__(
        self, on_frames: Callable[[int, np.ndarray], None], *, width: int, height: int, start_frame: int = 0
    ) -> None:
        self.width, self.height = checked_size(WHO, width, height)
        self.frames_written = checked_start(WHO, start_frame)
        self._on_frames = on_frames

    def __enter__(self) -> "CallbackWriter":
        return self

    def write(self, pixels_FHWC: Tensor | np.ndarray) -> None:
        """Hands uint8 frames [F, H, W, 3] in [0, 255] on; what the function raises goes to the caller."""
        frames = as_frames(WHO, pixels_FHWC, self.width, self.height)
        if len(frames):
            self._on_frames(self.frames_written, frames)
            self.frames_written += len(frames)

    def seal(self) -> None:
        """Returns at once: nothing waits here."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
