"""Begin a stream where a video or an earlier take ends, or follow a video from its first picture to its last.

C latent channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...model_patches.geometry import Geometry
from ...model_patches.sampler.schedule import first_call
from ...model_patches.stream.follow import Follow
from ...model_patches.stream.incoming import Fitted
from ...model_patches.stream.start import remembered_latents
from ...model_patches.stream.state import StreamConfig
from ...model_patches.stream.state_file import config_of, read
from ..host.encoder import HostEncoder
from ..host.incoming import opened
from .kept import KIND, VERSION

WHO = "Start From"


@dataclass(frozen=True, slots=True)
class Ending:
    """What a stream goes on from, read once its size is known."""

    given: int  # latent frames before the first block
    hidden: int  # pixel frames of those that are not shown: the video begins with what comes after them
    pixels_FHWC: Tensor | None = None  # the last pictures of a video, or
    latents_BCTHW: Tensor | None = None  # the newest latents of a take, in the VAE's units

    def begun(self, vae: Any, config: StreamConfig) -> dict[str, Any]:
        """What `Take.run` begins with."""
        if self.pixels_FHWC is None:
            return {"given_BCTHW": self.latents_BCTHW, "hidden": self.hidden}
        latents_BCTHW, _ = HostEncoder(vae)(self.pixels_FHWC, last=True)
        ending_HWC = self.pixels_FHWC[-1]
        ending_HWC = ending_HWC / 255 if ending_HWC.dtype == torch.uint8 else ending_HWC
        return {"given_BCTHW": latents_BCTHW, "hidden": self.hidden, "ending_HWC": ending_HWC}


@dataclass(frozen=True, slots=True)
class GoOnFromVideo:
    """The end of a video or of a batch of pictures."""

    source: Any  # VIDEO or IMAGE
    fit: str  # one of incoming.FITS
    pictures: int = 0  # that are looked back on; 0: as many as the stream does

    def read(self, config: StreamConfig, fps: float) -> Ending:
        """The last pictures at the stream's size and rate; the video is read to its end, a few at a time."""
        geometry, block = config.geometry, config.block_frames
        latents = geometry.latent_frames(self.pictures) or remembered_latents(config.positions, block)
        wanted = geometry.pixel_frames(latents)
        with opened(self.source, fps) as incoming:
            fitted = Fitted(incoming, geometry.width, geometry.height, self.fit)
            pixels_FHWC = fitted.newest(wanted)
        found = len(pixels_FHWC)
        if self.pictures and found < wanted:
            raise ValueError(
                f"{WHO}: context asks for {self.pictures} pictures, {wanted} in whole latents, and "
                f"{fitted.name} has {found} at {fps:g} a second; give a longer video, or set context to 0 "
                f"for as many as there are."
            )
        if found < wanted:
            latents = 1 + (found - 1) // geometry.time_stride
            latents -= latents % block if latents > block else 0
        shown = geometry.pixel_frames(latents)
        return Ending(latents, shown, pixels_FHWC[-shown:])


@dataclass(frozen=True, slots=True)
class GoOnFromTake:
    """The end of an earlier take; another stream than that take may begin there."""

    path: Path

    def read(self, config: StreamConfig, fps: float) -> Ending:
        """The take's newest latents; of the rest of its snapshot only where its pictures end is used."""
        about, tensors = read(self.path, KIND, VERSION)
        tail_BCTHW, geometry = tensors["tail"], config.geometry
        self._refuse_other(config_of(about["config"]).geometry, geometry)
        count = tail_BCTHW.shape[2]
        if not count:
            raise ValueError(
                f"{WHO}: {self.path.name} was saved just after a cut and holds no latents to go on from; "
                f"choose another take, or give its video."
            )
        most = remembered_latents(config.positions, config.block_frames)
        latents = min(count, most)
        latents -= latents % config.block_frames if latents > config.block_frames else 0
        # the newest latents may be ahead of the take's file, where it was interrupted
        ahead = about["scene"] + geometry.pixel_frames(about["start_frame"]) - about["frames"]
        hidden = max(0, geometry.pixel_frames(latents) - ahead)
        return Ending(latents, hidden, latents_BCTHW=tail_BCTHW[:, :, -latents:])

    def _refuse_other(self, had: Geometry, has: Geometry) -> None:
        if had != has:
            raise ValueError(
                f"{WHO}: the take {self.path.name} is {had.width}x{had.height} with {had.latent_channels} "
                f"latent channels, the video is to be {has.width}x{has.height} with {has.latent_channels}; "
                f"set Stream Video to the take's size, or give its video instead of the take."
            )


@dataclass(frozen=True, slots=True)
class FollowVideo:
    """A whole video that every block begins with, under noise."""

    source: Any  # VIDEO or IMAGE
    fit: str  # one of incoming.FITS
    strength: float  # share of noise, see `schedule.first_call`
    given = hidden = 0

    def begun(self, vae: Any, config: StreamConfig) -> dict[str, Any]:
        """Nothing goes before the first block; a strength that changes nothing is refused."""
        first_call(config.sigmas, self.strength)
        return {}


@contextmanager
def following(start: Any, vae: Any, config: StreamConfig, fps: float) -> Iterator[Follow | None]:
    """The video that is followed, open as long as it is; None if `start` is none.

    Its first block is read and encoded at once, so that what cannot be read is told before anything is made.
    """
    if not isinstance(start, FollowVideo):
        yield None
        return
    with opened(start.source, fps) as incoming:
        fitted = Fitted(incoming, config.geometry.width, config.geometry.height, start.fit)
        follow = Follow(fitted, HostEncoder(vae), config, start.strength)
        if follow.block(0, 0) is None:
            raise ValueError(f"{WHO}: {fitted.name} has no picture to follow; give at least one.")
        yield follow
