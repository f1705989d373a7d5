"""The ways to begin a stream: nothing, a picture, the end of a video or take, a video to follow, a snapshot.

Each is a `Beginning`. C latent channels, T latent frames, F pixel frames, H/W of the picture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.utils
from torch import Tensor

from ...model_patches.cache.format import CacheFormat
from ...model_patches.geometry import Geometry
from ...model_patches.memory.policy import MemoryPolicy
from ...model_patches.sampler.schedule import first_call
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.follow import Follow
from ...model_patches.stream.incoming import CROP, EXACT, STRETCH, Fitted
from ...model_patches.stream.pipeline import Prefill
from ...model_patches.stream.recovery import refuse_full
from ...model_patches.stream.script import Script
from ...model_patches.stream.snapshot import load, read_ending, read_header
from ...model_patches.stream.start import context_latents
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init
from ..host.caller import HostCaller
from ..host.decoder import first_latents, why_not_vae
from ..host.encoder import HostEncoder
from ..host.incoming import open_source

log = logging.getLogger(__name__)
WHO = "Start From"


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a stream begins; this base class: from nothing."""

    latents: int = 0  # latent frames before the first block
    hidden: int = 0  # pixel frames of them that the video does not show
    blocks: int = 0  # that an earlier run made

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int) -> Beginning:
        """This beginning for a video of this size and length (pictures), checked; no model is run.

        ValueError where the stream cannot begin so.
        """
        return self

    def script(self, script: Script) -> Script:
        """The prompts of the blocks to come."""
        return script

    def state(
        self, caller: HostCaller, script: Script, config: StreamConfig, cache: CacheFormat, memory:
        MemoryPolicy, frames: int,
    ) -> StreamState:  # fmt: skip
        """The state before the first block; frames: latent frames to make room for where no window ends."""
        state = init(caller, script.first, config, reserve_frames=frames, cache=cache, memory=memory)
        return replace(state, text=script.text)

    def prefill(self, caller: HostCaller, vae: Any) -> Prefill | None:
        """The latents before the first block, in the model's units."""
        return None

    @contextmanager
    def follow(
        self, caller: HostCaller, vae: Any, config: StreamConfig, fps: float
    ) -> Iterator[Follow | None]:
        """The video to follow, open inside the `with`; None: none."""
        yield None


FROM_NOTHING = Beginning()


@dataclass(frozen=True, slots=True)
class FromPicture(Beginning):
    """A picture is the first latent that is remembered and the first picture shown."""

    image_BHWC: Tensor | None = None  # one picture of three channels, in [0, 1]
    fit: str = CROP  # one of incoming.FITS
    latents: int = 1

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int) -> FromPicture:
        if refusal := why_not_vae(vae):
            raise ValueError(refusal)
        return replace(self, image_BHWC=self.resize(config.geometry))

    def prefill(self, caller: HostCaller, vae: Any) -> Prefill:
        assert self.image_BHWC is not None
        return Prefill(caller.from_vae(first_latents(vae, self.image_BHWC)), 0, self.image_BHWC[0])

    def resize(self, geometry: Geometry) -> Tensor:
        """The picture [1, H, W, 3] at the size of the video."""
        assert self.image_BHWC is not None
        height, width = self.image_BHWC.shape[1:3]
        wanted = (geometry.width, geometry.height)
        if self.fit == EXACT and (width, height) != wanted:
            raise ValueError(
                f"{WHO}: the picture is {width}x{height} and the video {wanted[0]}x{wanted[1]}; make "
                f"them equal, or set fit to {CROP} or {STRETCH}."
            )
        pixels_BCHW = comfy.utils.common_upscale(
            self.image_BHWC.movedim(-1, 1), *wanted, "bicubic", "center" if self.fit == CROP else "disabled"
        )
        return pixels_BCHW.clamp(0, 1).movedim(1, -1)


@dataclass(frozen=True, slots=True)
class FromVideo(Beginning):
    """The end of a video or of a batch of pictures; the stream's video begins after it."""

    source: Any = None  # VIDEO or IMAGE
    fit: str = CROP  # one of incoming.FITS
    context: int = 0  # pictures that are looked back on; 0: as many as the stream does
    pixels_FHWC: Tensor | None = None  # the last pictures at the stream's size, once they are read

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int) -> FromVideo:
        """The video is read to its end, a few pictures at a time."""
        geometry, block = config.geometry, config.block_frames
        latents = geometry.latent_frames(self.context) or context_latents(config.positions, block)
        wanted = geometry.pixel_frames(latents)
        with open_source(self.source, fps) as incoming:
            video = Fitted(incoming, geometry.width, geometry.height, self.fit)
            pixels_FHWC = video.newest(wanted)
        count = len(pixels_FHWC)
        if self.context and count < wanted:
            raise ValueError(
                f"{WHO}: context asks for {self.context} pictures, {wanted} in whole latents, and "
                f"{video.name} has {count} at {fps:g} a second; use a longer video, or "
                f"set context to 0 to use as many as there are."
            )
        if count < wanted:
            latents = whole_blocks(1 + (count - 1) // geometry.time_stride, block)
        hidden = geometry.pixel_frames(latents)
        return replace(self, latents=latents, hidden=hidden, pixels_FHWC=pixels_FHWC[-hidden:])

    def prefill(self, caller: HostCaller, vae: Any) -> Prefill:
        assert self.pixels_FHWC is not None
        latents_BCTHW, _ = HostEncoder(vae)(self.pixels_FHWC, last=True)
        ending_HWC = self.pixels_FHWC[-1]
        if not ending_HWC.is_floating_point():
            ending_HWC = ending_HWC / 255
        return Prefill(caller.from_vae(latents_BCTHW), self.hidden, ending_HWC)


@dataclass(frozen=True, slots=True)
class FromTake(Beginning):
    """The end of an earlier take, where a new stream begins."""

    path: Path = Path()
    latents_BCTHW: Tensor | None = None  # the newest latents in the model's units, once they are read

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int) -> FromTake:
        header, newest_BCTHW = read_ending(self.path)
        self._refuse_other(header.config.geometry, config.geometry)
        count = newest_BCTHW.shape[2]
        if not count:
            raise ValueError(
                f"{WHO}: {self.path.name} has no latents to begin with: it was saved just after a cut. "
                f"Choose another take, or connect its video."
            )
        most = context_latents(config.positions, config.block_frames)
        latents = whole_blocks(min(count, most), config.block_frames)
        hidden = max(0, config.geometry.pixel_frames(latents) - header.ahead)
        return replace(self, latents=latents, hidden=hidden, latents_BCTHW=newest_BCTHW[:, :, -latents:])

    def prefill(self, caller: HostCaller, vae: Any) -> Prefill:
        assert self.latents_BCTHW is not None
        return Prefill(self.latents_BCTHW, self.hidden)

    def _refuse_other(self, had: Geometry, has: Geometry) -> None:
        if had != has:
            raise ValueError(
                f"{WHO}: the take {self.path.name} is {had.width}x{had.height} with {had.latent_channels} "
                f"latent channels, the video is to be {has.width}x{has.height} with {has.latent_channels}; "
                f"set Stream Video to the take's size, or connect its video instead of the take."
            )


@dataclass(frozen=True, slots=True)
class Following(Beginning):
    """A whole video that every block begins with, under noise."""

    source: Any = None  # VIDEO or IMAGE
    fit: str = CROP  # one of incoming.FITS
    strength: float = 1.0  # share of noise, see `schedule.first_call`

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int) -> Following:
        first_call(config.sigmas, self.strength)
        return self

    @contextmanager
    def follow(
        self, caller: HostCaller, vae: Any, config: StreamConfig, fps: float
    ) -> Iterator[Follow | None]:
        """Its first block is read and encoded at once, so what cannot be read is refused before anything."""
        encoder = HostEncoder(vae)

        def encode(pixels_FHWC: Tensor, past: Any, *, last: bool) -> tuple[Tensor, Any]:
            latents_BCTHW, past = encoder(pixels_FHWC, past, last=last)
            return caller.from_vae(latents_BCTHW), past

        with open_source(self.source, fps) as incoming:
            video = Fitted(incoming, config.geometry.width, config.geometry.height, self.fit)
            follow = Follow(video, encode, config, self.strength)
            with refuse_full(caller, "while the first pictures of the video are encoded"):
                first = follow.block(0, 0)
            if first is None:
                raise ValueError(f"{WHO}: {video.name} has no picture to follow; it needs at least one.")
            yield follow


@dataclass(frozen=True, slots=True)
class Resume(Beginning):
    """An earlier take to resume; only the header of its snapshot is read before its stream is set up."""

    path: Path = Path()
    frames: int = 0  # pixel frames of the whole video that are written
    text: str | None = None  # the prompt that held when it ended; None: the graph's fixed one
    followed: bool = False  # it followed a video, which its snapshot does not hold
    fps: float | None = None  # of its video; None: its snapshot does not say

    @classmethod
    def from_snapshot(cls, path: Path) -> Resume:
        """The take of this snapshot; ValueError for a file of another kind or release."""
        header = read_header(path)
        ledger = header.ledger
        counts = ledger.prefilled, ledger.hidden, header.block
        return cls(*counts, path, ledger.written, header.text, header.followed, ledger.fps)

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int) -> Resume:
        if self.fps not in (None, fps):
            raise ValueError(
                f"Resume Stream: the take in {self.path.name} plays at {self.fps:g} pictures a second, and "
                f"fps is {fps:g}; set fps to {self.fps:g}, or begin a new stream."
            )
        if pictures <= self.frames:
            raise ValueError(
                f"Resume Stream: {self.path.name} already has {self.frames / fps:.1f} s of video and seconds "
                f"is {pictures / fps:.1f}; seconds counts the whole video, so set it higher."
            )
        if self.followed:
            log.warning(
                "Resume Stream: the take in %s followed a video, which its snapshot does not hold: from here "
                "on the prompt alone says what comes. To follow further, use Start From with mode follow "
                "instead, and the video without its first %.1f s.",
                self.path.name,
                self.frames / fps,
            )
        return self

    def script(self, script: Script) -> Script:
        return script.resume(self.blocks, self.text)

    def state(
        self, caller: HostCaller, script: Script, config: StreamConfig, cache: CacheFormat, memory:
        MemoryPolicy, frames: int,
    ) -> StreamState:  # fmt: skip
        state = load(self.path, caller, config, cache=cache, memory=memory)
        ledger = state.ledger.new_file(state.block)
        return replace(state, prompt=script.first, text=script.text, ledger=ledger)


def whole_blocks(latents: int, block_frames: int) -> int:
    """The number of latent frames without an incomplete last block; fewer than one block stay."""
    return latents - latents % block_frames if latents > block_frames else latents
