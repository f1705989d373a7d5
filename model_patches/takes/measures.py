"""What pictures show of drift, as numbers: how much they move, how colourful they are, how much is clipped.

F pixel frames, H/W pixels, h/w of small pictures, three colours last. Levels are 0..255.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .curve import Point

SHORT_SIDE = 48  # pixels at least, of a small picture, where the frame has so many
SAMPLES = 3  # of each row and column of a cell, which is averaged to one small pixel
ENDS = 2  # levels at either end of the 256, where a colour has no room left

Frames = NDArray[np.uint8]
Numbers = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Measures:
    """One number per frame, float32 [F], and the small pictures that later ones are compared with."""

    motion: Numbers  # mean absolute difference to the frame before, levels; NaN where there is none
    saturation: Numbers  # mean of largest less smallest colour of a pixel, share of 255
    clipped: Numbers  # share of colours at either end of the levels
    small_FhwC: Numbers  # the pictures made small, levels


def measure(frames_FHWC: Frames, before_hwC: Numbers | None) -> Measures:
    """The numbers of at least one frame, uint8 [F, H, W, 3]; before: the small picture that comes before."""
    cells = _cells(frames_FHWC)
    small_FhwC = _mean(cells)
    moves = np.full(len(small_FhwC), np.nan, np.float32)
    if before_hwC is not None:
        moves[0] = np.abs(small_FhwC[0] - before_hwC).mean()
    moves[1:] = np.abs(np.diff(small_FhwC, axis=0)).mean((1, 2, 3))
    red, green, blue = (small_FhwC[..., n] for n in range(3))  # much faster than along the last axis
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    # uint8 goes round at 256, so that both ends lie side by side
    ends = cells[:, :, 0, :, 0] + np.uint8(ENDS) < 2 * ENDS
    clipped = ends.mean((1, 2, 3), dtype=np.float32)
    return Measures(moves, (most - least).mean((1, 2)) / 255, clipped, small_FhwC)


def border_ratio(moves: Sequence[float] | Numbers, at: Sequence[int]) -> float:
    """Motion across block borders against motion inside blocks; at: indices of the moves across a border."""
    across = np.zeros(len(moves), bool)
    across[list(at)] = True
    moves = np.asarray(moves)
    return float(moves[across].mean() / moves[~across].mean())


def _cells(frames_FHWC: Frames) -> Frames:
    """The sampled pixels of each cell, a view [F, h, a, w, b, 3]; what is left over at an edge goes."""
    count, height, width, colours = frames_FHWC.shape
    side = max(1, min(height, width) // SHORT_SIDE)
    rows, columns = height // side, width // side
    cut = frames_FHWC[:, : rows * side, : columns * side]
    step = -(-side // SAMPLES)
    return cut.reshape(count, rows, side, columns, side, colours)[:, :, ::step, :, ::step]


def _mean(cells: Frames) -> Numbers:
    """The mean of each cell's samples, [F, h, w, 3]."""
    samples = [cells[:, :, a, :, b] for a in range(cells.shape[2]) for b in range(cells.shape[4])]
    total = np.zeros(samples[0].shape, np.uint16)
    for each in samples:
        total += each
    return np.divide(total, len(samples), dtype=np.float32)


class Seconds:
    """Blocks of frames become points, one for about every second of video."""

    def __init__(self, fps: float, time_stride: int) -> None:
        # whole latents: the same latent again gives the same pictures after so many frames
        self.frames = time_stride * max(1, round(fps / time_stride))
        self._next_frame = -1
        self._before: Numbers | None = None  # the last small picture
        self._first: Numbers | None = None  # that of the first frame of the point in the making
        self._forget()

    def take(self, first_frame: int, frames_FHWC: Frames) -> Iterator[Point]:
        """The points that one block completes; first_frame: its place in the file.

        A point of which frames were not seen does not come.
        """
        if first_frame != self._next_frame:
            self._before = self._first = None
        seen = measure(frames_FHWC, self._before)
        for n, small_hwC in enumerate(seen.small_FhwC):
            if (frame := first_frame + n) % self.frames == 0:
                if self._first is not None:
                    yield self._point(frame - self.frames, np.abs(small_hwC - self._first).mean())
                self._first = small_hwC
                self._forget()
            if not np.isnan(seen.motion[n]):
                (self._inside if n else self._border).append(float(seen.motion[n]))
            self._others.append((float(seen.saturation[n]), float(seen.clipped[n])))
        self._before, self._next_frame = seen.small_FhwC[-1], first_frame + len(frames_FHWC)

    def _forget(self) -> None:
        self._inside: list[float] = []
        self._border: list[float] = []
        self._others: list[tuple[float, float]] = []

    def _point(self, frame: int, change: float) -> Point:
        saturation, clipped = np.mean(self._others, axis=0)
        moves = self._inside + self._border
        inside = float(np.mean(self._inside)) if self._inside else 0.0
        border = float(np.mean(self._border)) if self._border else None
        levels = float(np.mean(moves)) if moves else 0.0
        return Point(
            frame, self.frames, levels, float(change), float(saturation), float(clipped), inside, border
        )
