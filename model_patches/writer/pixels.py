"""Checks of a writer's sizes and of each chunk it gets.

F pixel frames, H/W pixels, three colours last.
"""

import numpy as np
import torch
from torch import Tensor

from .frames import HostFrames


def check_size(who: str, width: int, height: int, multiple: int = 1) -> tuple[int, int]:
    """Returns (width, height) in pixels; ValueError unless both are positive multiples of `multiple`."""
    for name, size in (("width", width), ("height", height)):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{who}: {name} must be a whole number of pixels, 1 or more, got {size!r}.")
        if size % multiple:
            raise ValueError(
                f"{who}: {name} must be a multiple of {multiple} pixels, got {size}; nearest is "
                f"{max(multiple, round(size / multiple) * multiple)}."
            )
    return width, height


def check_start(who: str, start_frame: int) -> int:
    """Returns start_frame, the frames that earlier runs wrote; ValueError unless a whole number from 0."""
    if not isinstance(start_frame, int) or isinstance(start_frame, bool) or start_frame < 0:
        raise ValueError(
            f"{who}: start_frame must be a whole number, 0 or more, got {start_frame!r}; "
            f"a new video starts at 0, a resumed one at the snapshot's frames_written."
        )
    return start_frame


def to_frames(who: str, pixels_FHWC: HostFrames | Tensor | np.ndarray, width: int, height: int) -> HostFrames:
    """Returns the frames, copied unless nobody changes them; ValueError for another type, shape or dtype."""
    if not isinstance(pixels_FHWC, HostFrames | Tensor | np.ndarray):
        raise ValueError(
            f"{who}: frames must be a uint8 tensor [F, {height}, {width}, 3], "
            f"got {type(pixels_FHWC).__name__}."
        )
    shape = tuple(pixels_FHWC.shape)
    if len(shape) != 4 or shape[1:] != (height, width, 3):
        raise ValueError(
            f"{who}: frames must be [F, {height}, {width}, 3] (height {height}, width {width}, RGB last), "
            f"got {list(shape)}; open another writer for another size."
        )
    if isinstance(pixels_FHWC, HostFrames):
        return pixels_FHWC
    if pixels_FHWC.dtype not in (torch.uint8, np.dtype(np.uint8)):
        raise ValueError(
            f"{who}: frames must be uint8 in 0 to 255, got {pixels_FHWC.dtype}; scale and round them first."
        )
    array = pixels_FHWC.detach().cpu().numpy() if isinstance(pixels_FHWC, Tensor) else pixels_FHWC
    return HostFrames(torch.from_numpy(np.array(array, order="C")))
