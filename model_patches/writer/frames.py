"""Folder of numbered pictures: `frame_00000000.png` is the first frame of the stream."""

import re
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image
from torch import Tensor

from .pixels import as_frames, checked_size, checked_start

WHO = "Picture writer"
NAME = re.compile(r"frame_(\d{8,})\.png")


class PngWriter:
    """Writes each frame as a lossless picture that appears under its number only when it is whole.

    The folder itself is the index. To go on, open it with `start_frame` set to the `frames_written` of the
    snapshot; pictures made after the snapshot are replaced, because the stream makes them again.
    """

    def __init__(self, folder: Path | str, *, width: int, height: int, start_frame: int = 0) -> None:
        self.folder = Path(folder)
        self.width, self.height = checked_size(WHO, width, height)
        self.frames_written = checked_start(WHO, start_frame)
        self._open = False

    def __enter__(self) -> "PngWriter":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / "frame.png.new"
            probe.open("wb").close()
            probe.unlink()
        except OSError as why:
            raise ValueError(
                f"{WHO}: cannot write into {self.folder} ({why.strerror}); "
                f"choose a folder that you may write to."
            ) from why
        self._check_earlier()
        self._open = True
        return self

    def write(self, pixels_FHWC: Tensor | np.ndarray) -> None:
        """Writes uint8 frames [F, H, W, 3] in [0, 255], one file each, before it returns."""
        if not self._open:
            raise RuntimeError(f"{WHO}: {self.folder} is not open; write inside its `with` block.")
        for pixels_HWC in as_frames(WHO, pixels_FHWC, self.width, self.height):
            path = self.folder / f"frame_{self.frames_written:08d}.png"
            part = path.with_name(path.name + ".new")
            try:
                # the fastest compression: the default takes several times longer for a tenth less
                Image.fromarray(pixels_HWC).save(part, format="PNG", compress_level=1)
                part.replace(path)
            except OSError as why:
                part.unlink(missing_ok=True)
                raise RuntimeError(
                    f"{WHO}: frame {self.frames_written} could not be written ({why.strerror or why}); the "
                    f"frames before it are in {self.folder}. Free some space, then resume."
                ) from why
            self.frames_written += 1

    def seal(self) -> None:
        """Returns at once: every frame is on disk when `write` returns."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False

    def _check_earlier(self) -> None:
        numbers = frame_numbers(self.folder)
        if numbers and not self.frames_written:
            raise ValueError(
                f"{WHO}: {self.folder} holds {len(numbers)} frames already and they are not overwritten; "
                f"choose an empty folder, or resume the stream that made them."
            )
        following = numbers[-1] + 1 if numbers else self.frames_written
        if following < self.frames_written:
            raise ValueError(
                f"{WHO}: the stream goes on at frame {self.frames_written}, but {self.folder} ends at frame "
                f"{numbers[-1]}; resume an earlier snapshot, or choose an empty folder."
            )


def frame_numbers(folder: Path) -> list[int]:
    """Returns the numbers of the frames in a folder, in order."""
    return sorted(int(match[1]) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)))
