"""Pictures that come in: from a video file, decoded as they are asked for, or from memory.

F pixel frames, H/W pixels, three colours last. A source gives its pictures in order and only once, so a video
of any length needs the memory of those that are being worked on.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..writer.encoding import coding_of
from ..writer.ffmpeg import Decoder, decode_command, find_ffmpeg
from ..writer.hdr import tone_mapping
from ..writer.movie import read_movie
from ..writer.options import check_fps

log = logging.getLogger(__name__)

CROP, STRETCH, EXACT = "crop", "stretch", "refuse"
FITS = {
    CROP: "scaled until it covers the video, the middle is taken",
    STRETCH: "scaled to the video's width and height, whatever that does to its shape",
    EXACT: "another size than the video's is refused",
}
TOGETHER = 8  # pictures that are looked for at once while the newest are sought


class Incoming(Protocol):
    """A row of pictures, given once from the first to the last."""

    name: str  # for messages

    def take(self, count: int) -> Tensor:
        """The next pictures [F, H, W, 3], fewer than `count` only where they end.

        uint8 in 0..255 or floating point in [0, 1].
        """
        ...


class VideoFile:
    """A video file at another rate of pictures; read it in a `with`."""

    def __init__(
        self,
        path: Path | str,
        *,
        fps: Fraction | float,
        start_seconds: float = 0.0,
        seconds: float | None = None,
    ) -> None:
        """fps: pictures a second to be given, each the file's nearest in time; seconds: None, to the end."""
        self.path, self.name = Path(path), Path(path).name
        self.fps = check_fps(fps)
        self._window = {"start_seconds": start_seconds, "seconds": seconds}
        self._decoder: Decoder | None = None
        self._factor = 1  # how many times larger than the stream's pictures the file's are
        self.read_frames = 0  # pictures

    def __enter__(self) -> VideoFile:
        if not self.path.is_file():
            raise ValueError(f"Video reader: there is no file {self.path}; choose one that is there.")
        movie = read_movie(self.path)
        self._factor = coding_of(movie).factor if movie else 1
        program = find_ffmpeg()
        tones = tone_mapping(program, self.path)
        command = decode_command(program, self.path, fps=self.fps, **self._window, tones=tones)
        self._decoder = Decoder(command)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._decoder is not None:
            self._decoder.kill()
            self._decoder = None

    def take(self, count: int) -> Tensor:
        """The next pictures, uint8; a file of which none can be read is refused."""
        found: list[Tensor] = []
        while len(found) < count and self._decoder is not None:
            picture = self._decoder.read()
            if picture is None:
                self._end(self.read_frames + len(found))
            else:
                found.append(_reduced(torch.from_numpy(picture), self._factor))
        self.read_frames += len(found)
        return torch.stack(found) if found else torch.empty(0, 0, 0, 3, dtype=torch.uint8)

    def _end(self, frames: int) -> None:
        assert self._decoder is not None
        (code, words), self._decoder = self._decoder.close(), None
        if not frames:
            raise ValueError(
                f"Video reader: {self.name} gives no picture{f' ({words})' if words else ''}; give a video "
                f"file that plays, and a start before its end."
            )
        if code or words:
            log.warning("Video reader: %s ends after %d pictures: %s", self.name, frames, words or code)


def _reduced(picture_HWC: Tensor, factor: int) -> Tensor:
    """A uint8 picture as it was before a writer drew each of its pixels this many times in a row."""
    height, width = picture_HWC.shape[0] // factor, picture_HWC.shape[1] // factor
    if factor == 1 or (height * factor, width * factor) != picture_HWC.shape[:2]:
        return picture_HWC
    return picture_HWC.view(height, factor, width, factor, 3).float().mean((1, 3)).round().to(torch.uint8)


class Pictures:
    """Pictures that are in memory already."""

    def __init__(self, pixels_FHWC: Tensor, name: str = "the pictures", step: Fraction = Fraction(1)) -> None:
        """step: pictures from one moment to the next; of every moment the nearest is given."""
        self._pixels_FHWC, self.name, self._step, self._given = pixels_FHWC, name, step, 0

    def take(self, count: int) -> Tensor:
        """The next of them."""
        moments = range(self._given, self._given + count)
        places = [math.floor(moment * self._step + Fraction(1, 2)) for moment in moments]
        taken_FHWC = self._pixels_FHWC[[place for place in places if place < len(self._pixels_FHWC)]]
        self._given += len(taken_FHWC)
        return taken_FHWC


def newest(source: Incoming, count: int) -> Sequence[Tensor]:
    """A source's last pictures, one by one, all of them where it has no more; it is read to its end.

    No more than these and a few are in memory at once.
    """
    kept: deque[Tensor] = deque(maxlen=count)
    while len(some_FHWC := source.take(TOGETHER)):
        kept.extend(some_FHWC)
    if not kept:
        raise ValueError(f"Video reader: {source.name} has no picture; give at least one.")
    return kept


class Fitted:
    """Another source's pictures at one size, without transparency; what cannot be shown is refused."""

    def __init__(self, source: Incoming, width: int, height: int, fit: str = CROP, upscale: int = 1) -> None:
        """width, height: pixels. fit: one of FITS; upscale: times the size, which EXACT takes, too."""
        self.source, self.name = source, source.name
        self.width, self.height, self.fit, self.upscale = width, height, fit, upscale

    def take(self, count: int) -> Tensor:
        """The next pictures at that size, in the source's dtype."""
        return self.fitted(self.source.take(count))

    def newest(self, count: int) -> Tensor:
        """The source's last pictures, see `newest`."""
        return self.fitted_each(newest(self.source, count))

    def fitted_each(self, pictures: Iterable[Tensor]) -> Tensor:
        """Pictures [H, W, 3] of one size at least as those [F, H, W, 3] of this one."""
        return torch.cat([self.fitted(picture_HWC[None]) for picture_HWC in pictures])

    def fitted(self, pixels_FHWC: Tensor) -> Tensor:
        """These pictures [F, H, W, 3] at the size, by the rule."""
        if not len(pixels_FHWC):
            return pixels_FHWC.new_empty(0, self.height, self.width, 3)
        pixels_FHWC = self._checked(pixels_FHWC)
        height, width = pixels_FHWC.shape[1:3]
        if (width, height) == (self.width, self.height):
            return pixels_FHWC
        if self.fit == EXACT:
            refuse_other_size(
                f"Video reader: {self.name}", width, height, (self.width, self.height), self.upscale
            )
        if self.fit == CROP:
            pixels_FHWC = _middle(pixels_FHWC, self.width, self.height)
        return _scaled(pixels_FHWC, self.width, self.height)

    def _checked(self, pixels_FHWC: Tensor) -> Tensor:
        """The colours of the pictures."""
        if pixels_FHWC.ndim != 4 or pixels_FHWC.shape[-1] not in (3, 4) or not pixels_FHWC.numel():
            raise ValueError(
                f"Video reader: {self.name} comes as {list(pixels_FHWC.shape)}; colour pictures [frames, "
                f"height, width, 3] are needed."
            )
        opaque = 1 if pixels_FHWC.is_floating_point() else 255
        if pixels_FHWC.shape[-1] == 4 and not bool((pixels_FHWC[..., 3] >= opaque).all()):
            raise ValueError(
                f"Video reader: {self.name} has transparent parts, which a video cannot show; lay the "
                f"pictures on a ground first."
            )
        if pixels_FHWC.is_floating_point() and not bool(pixels_FHWC.isfinite().all()):
            raise ValueError(
                f"Video reader: {self.name} holds NaN or infinite numbers; look at what made it, or give "
                f"another."
            )
        return pixels_FHWC[..., :3]


def _middle(pixels_FHWC: Tensor, width: int, height: int) -> Tensor:
    """The largest middle part that has the shape of width x height."""
    had, has = pixels_FHWC.shape[2], pixels_FHWC.shape[1]
    wide, high = min(had, round(has * width / height)), min(has, round(had * height / width))
    left, top = (had - wide) // 2, (has - high) // 2
    return pixels_FHWC[:, top : top + max(1, high), left : left + max(1, wide)]


def _scaled(pixels_FHWC: Tensor, width: int, height: int) -> Tensor:
    """Bicubic, weighing all that falls into a smaller pixel."""
    dtype = pixels_FHWC.dtype
    scaled_FCHW = F.interpolate(
        pixels_FHWC.permute(0, 3, 1, 2).float(),
        (height, width),
        mode="bicubic",
        align_corners=False,
        antialias=True,
    )
    scaled_FHWC = scaled_FCHW.permute(0, 2, 3, 1)
    if dtype == torch.uint8:
        return scaled_FHWC.round().clamp(0, 255).to(dtype)
    return scaled_FHWC.clamp(0, 1).to(dtype)


def refuse_other_size(what: str, width: int, height: int, wanted: tuple[int, int], upscale: int = 1) -> None:
    """ValueError where a picture has not the size that is wanted, nor `upscale` times that."""
    sizes = [(wanted[0] * times, wanted[1] * times) for times in sorted({1, upscale})]
    if (width, height) not in sizes:
        said = " or ".join(f"{w}x{h}" for w, h in sizes)
        raise ValueError(
            f"{what} is {width}x{height} and the video is to be {said}; make them equal, or set fit to "
            f"{CROP} or {STRETCH}."
        )
