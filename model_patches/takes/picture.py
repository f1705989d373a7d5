"""The newest picture of a take, for a listing and for the end of a run.

F pixel frames, H/W pixels.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from torch import Tensor

from ..writer.frames import HostFrames

SIDE = 256  # pixels of the longer side of a listing's picture
QUALITY = 85


class NewestPicture:
    """A writer that keeps the newest pictures in memory, and nothing else. Any thread may look."""

    def __init__(self, frames_written: int = 0) -> None:
        self.frames_written = frames_written
        self._newest: HostFrames | None = None

    def __enter__(self) -> NewestPicture:
        return self

    def write(self, frames: HostFrames) -> None:
        self.frames_written += len(frames)
        self._newest = frames

    @property
    def last_HWC(self) -> Tensor | None:
        """The newest picture, uint8 [H, W, 3], once a card has made it; None before the first."""
        newest = self._newest
        return None if newest is None else newest.read()[-1]

    def seal(self) -> None:
        """Does nothing: there is no file to close."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does nothing: there is no file to close."""


def write_picture(path: Path, picture_HWC: Tensor) -> None:
    """Writes a small JPEG of a picture, uint8 [H, W, 3]; it appears whole. Raises OSError."""
    from PIL import Image  # a listing's picture is all that needs it

    image = Image.fromarray(picture_HWC.numpy())
    image.thumbnail((SIDE, SIDE))
    new = path.with_name(path.name + ".new")
    try:
        image.save(new, "JPEG", quality=QUALITY)
        os.replace(new, path)
    finally:
        with suppress(OSError):
            new.unlink()
