"""The host's VIDEO and IMAGE values as pictures that come in one after the other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.v0_0_2 import InputImpl
from torch import Tensor

from ...model_patches.geometry import rate_of
from ...model_patches.stream.incoming import Incoming, Pictures, VideoFile

WHO = "Start From"


@contextmanager
def open_source(source: Any, fps: float) -> Iterator[Incoming]:
    """The pictures of a VIDEO or of an IMAGE batch, at `fps` a second.

    A video in a file is decoded as its pictures are asked for; of every moment its nearest picture is taken.
    A batch has no rate: each of its pictures is one of the stream's.
    """
    if isinstance(source, Tensor):
        yield Pictures(source, "image")
        return
    if not hasattr(source, "get_stream_source"):
        raise ValueError(
            f"{WHO}: video is a {type(source).__name__}; connect Load Video, or another node with a VIDEO "
            f"output."
        )
    if hasattr(source, "get_active_trim_window"):
        start_seconds, seconds = source.get_active_trim_window()
    else:
        start_seconds, seconds = 0.0, 0.0
    if isinstance(source, InputImpl.VideoFromComponents):
        # its pictures are in memory already, and a file of them would be another, lossy copy
        parts = source.get_components()
        step = rate_of(parts.frame_rate) / rate_of(fps)
        yield Pictures(parts.images, "video", step)
        return
    with _path_of(source.get_stream_source()) as path:
        window = {"start_seconds": start_seconds, "seconds": seconds or None}
        with VideoFile(path, fps=fps, **window) as video:
            yield video


@contextmanager
def _path_of(source: Any) -> Iterator[Path]:
    """The file of a source that is a path or a file in memory."""
    if isinstance(source, str | os.PathLike):
        yield Path(source)
        return
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rivulet-", dir=folder) as folder_name:
        path = Path(folder_name, "video")
        with path.open("wb") as file:
            file.write(source.getbuffer())
        yield path


def refuse_unfit(images_BHWC: Tensor) -> None:
    """Raises ValueError where a picture of a batch cannot be shown, before anything is made."""
    shape = list(images_BHWC.shape)
    if images_BHWC.ndim != 4 or images_BHWC.shape[-1] not in (3, 4) or not images_BHWC.numel():
        raise ValueError(
            f"{WHO}: image is {shape}; colour pictures [number, height, width, 3] are needed. Load them with "
            f"Load Image, or connect a video."
        )
    for number, image_HWC in enumerate(images_BHWC):
        if not bool(torch.isfinite(image_HWC).all()):
            raise ValueError(
                f"{WHO}: picture {number} of image holds NaN or infinite numbers; look at the node that made "
                f"it, or load another."
            )
        if shape[-1] == 4 and not bool((image_HWC[..., 3] >= 1).all()):
            raise ValueError(
                f"{WHO}: picture {number} of image has transparent parts, which a video cannot show; lay it "
                f"on a ground first, for instance with ImageCompositeMasked."
            )
