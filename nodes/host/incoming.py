"""The host's VIDEO and IMAGE values as pictures that come in one after the other."""

from __future__ import annotations

import os
import tempfile
import wave
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.v0_0_2 import InputImpl
from torch import Tensor

from ...model_patches.geometry import rate_of
from ...model_patches.stream.incoming import Incoming, Pictures, VideoFile
from ...model_patches.writer.sound import Sound

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
    if isinstance(source, InputImpl.VideoFromComponents):
        # its pictures are in memory already, and a file of them would be another, lossy copy
        parts = source.get_components()
        step = rate_of(parts.frame_rate) / rate_of(fps)
        yield Pictures(parts.images, "video", step)
        return
    with (
        _file_of(source) as (path, start, seconds),
        VideoFile(path, fps=fps, start_seconds=start, seconds=seconds) as video,
    ):
        yield video


@contextmanager
def open_sound(source: Any, *, after: bool = False) -> Iterator[Sound | None]:
    """What a VIDEO sounds like from its first picture on; after: from its last one on, where it was trimmed.

    None where there is nothing to hear.
    """
    if isinstance(source, Tensor):
        yield None
    elif isinstance(source, InputImpl.VideoFromComponents):
        heard = None if after else source.get_components().audio
        with _temporary_folder() as folder:
            yield None if heard is None else Sound(_wave_of(heard, folder / "sound.wav"))
    else:
        with _file_of(source) as (path, start_seconds, seconds):
            if not after:
                yield Sound(path, start_seconds, seconds)
            else:
                yield None if seconds is None else Sound(path, start_seconds + seconds)


@contextmanager
def _file_of(source: Any) -> Iterator[tuple[Path, float, float | None]]:
    """The file of a VIDEO, and which seconds of it: the first, and how many, None: all that follow.

    ValueError where there is none. What the host shows a part of only is made a file of its own.
    """
    if not hasattr(source, "get_stream_source"):
        raise ValueError(
            f"{WHO}: video is a {type(source).__name__}; connect Load Video, or another node with a VIDEO "
            f"output."
        )
    start_seconds, seconds = 0.0, 0.0
    if hasattr(source, "get_active_trim_window"):
        start_seconds, seconds = source.get_active_trim_window()
    with _path_of(source.get_stream_source()) as path:
        if not path.is_file():
            raise ValueError(
                f"{WHO}: the video {path.name} is not in {path.parent} any more; put it back, or choose "
                f"another in Load Video."
            )
        if not _is_cropped(source, path):
            yield path, start_seconds, seconds or None
            return
    with _temporary_folder() as folder:
        source.save_to(str(folder / "video.mp4"))
        yield folder / "video.mp4", 0.0, None


def _is_cropped(source: Any, path: Path) -> bool:
    """Whether the host shows another size than the file has."""
    if not hasattr(source, "get_dimensions"):
        return False
    try:
        return source.get_dimensions() != InputImpl.VideoFromFile(str(path)).get_dimensions()
    except (OSError, ValueError):  # a file that cannot be read: whoever reads it has the words
        return False


def _wave_of(audio: Mapping[str, Any], path: Path) -> Path:
    """Writes an AUDIO value, float samples [1, channels, count] in [-1, 1], as 16 bit; returns the path."""
    samples = audio["waveform"][0].float().clamp(-1, 1).mul(32767).round().to(torch.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(int(audio["sample_rate"]))
        file.writeframes(samples.T.contiguous().cpu().numpy().astype("<i2").tobytes())
    return path


@contextmanager
def _path_of(source: Any) -> Iterator[Path]:
    """The file of a source that is a path or a file in memory."""
    if isinstance(source, str | os.PathLike):
        yield Path(source)
        return
    with _temporary_folder() as folder:
        path = folder / "video"
        with path.open("wb") as file:
            file.write(source.getbuffer())
        yield path


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rivulet-", dir=folder) as name:
        yield Path(name)


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
