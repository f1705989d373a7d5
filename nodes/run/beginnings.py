"""The ways to begin a stream: nothing, a picture, the end of a video or take, a video to follow.

Each is a `Beginning`. C latent channels, T latent frames, F pixel frames, H/W of the picture.
"""

from __future__ import annotations

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
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.follow import Follow, first_moving_call
from ...model_patches.stream.incoming import CROP, EXACT, Fitted, newest, refuse_other_size
from ...model_patches.stream.join import times_to_put_back
from ...model_patches.stream.pipeline import Prefill
from ...model_patches.stream.recovery import refuse_full
from ...model_patches.stream.rolling import refuse_following
from ...model_patches.stream.script import Script
from ...model_patches.stream.snapshot import Header, read_ending
from ...model_patches.stream.start import context_latents
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init
from ...model_patches.takes.folder import TakeFolder
from ...model_patches.writer.sound import Sound
from ..host.caller import HostCaller
from ..host.decoder import first_latents, why_not_vae
from ..host.encoder import HostEncoder
from ..host.incoming import open_sound, open_source
from ..host.vae import upscale_of

WHO = "Start From"


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a stream begins; this base class: from nothing."""

    latents: int = 0  # latent frames before the first block
    hidden: int = 0  # pixel frames of them that the video does not show
    blocks: int = 0  # that an earlier run made
    may_redo: bool = True  # viewers can have it made again from any frame

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int | None) -> Beginning:
        """This beginning for a video of this size and length (pictures; None: without end), checked.

        No model is run.

        ValueError where the stream cannot begin so.
        """
        return self

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

    @contextmanager
    def sound(self) -> Iterator[Sound | None]:
        """What goes along with the video, there inside the `with`; None: nothing does."""
        yield None


FROM_NOTHING = Beginning()


@dataclass(frozen=True, slots=True)
class FromPicture(Beginning):
    """A picture is the first latent that is remembered and the first picture shown."""

    image_BHWC: Tensor | None = None  # one picture of three channels, in [0, 1]
    fit: str = CROP  # one of incoming.FITS
    latents: int = 1
    ending_HWC: Tensor | None = None  # as `Prefill` has it, once the picture is read

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int | None) -> FromPicture:
        if refusal := why_not_vae(vae):
            raise ValueError(refusal)
        assert self.image_BHWC is not None
        height, width = self.image_BHWC.shape[1:3]
        geometry, upscale = config.geometry, upscale_of(vae)
        if self.fit == EXACT:
            refuse_other_size(
                f"{WHO}: the picture", width, height, (geometry.width, geometry.height), upscale
            )
        times = times_to_put_back(width, height, geometry, upscale)
        ending_HWC = self.resize(geometry, times)[0]
        return replace(self, image_BHWC=self.resize(geometry), ending_HWC=ending_HWC)

    def prefill(self, caller: HostCaller, vae: Any) -> Prefill:
        assert self.image_BHWC is not None
        return Prefill(caller.from_vae(first_latents(vae, self.image_BHWC)), 0, self.ending_HWC)

    def resize(self, geometry: Geometry, times: int = 1) -> Tensor:
        """The picture [1, H, W, 3] at the size of the stream, or so many times that."""
        assert self.image_BHWC is not None
        wanted = geometry.picture_size(times)
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
    ending_HWC: Tensor | None = None  # the last of them, as `Prefill` has it

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int | None) -> FromVideo:
        """The video is read to its end, a few pictures at a time."""
        geometry, block = config.geometry, config.block_frames
        latents = geometry.latent_frames(self.context) or context_latents(config.positions, block)
        wanted = geometry.pixel_frames(latents)
        upscale = upscale_of(vae)
        with open_source(self.source, fps) as incoming:
            kept = newest(incoming, wanted)
            video = Fitted(incoming, *geometry.picture_size(), self.fit, upscale)
            pixels_FHWC = video.fitted_each(kept)
            height, width = kept[-1].shape[:2]
            times = times_to_put_back(width, height, geometry, upscale)
            ending_HWC = Fitted(incoming, *geometry.picture_size(times), self.fit).fitted(kept[-1][None])[0]
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
        if not ending_HWC.is_floating_point():
            ending_HWC = ending_HWC / 255
        shown = {"latents": latents, "hidden": hidden, "pixels_FHWC": pixels_FHWC[-hidden:]}
        return replace(self, **shown, ending_HWC=ending_HWC)

    @contextmanager
    def sound(self) -> Iterator[Sound | None]:
        """Where the video was trimmed, its sound goes on."""
        with open_sound(self.source, after=True) as sound:
            yield sound

    def prefill(self, caller: HostCaller, vae: Any) -> Prefill:
        assert self.pixels_FHWC is not None
        latents_BCTHW, _ = HostEncoder(vae)(self.pixels_FHWC, last=True)
        return Prefill(caller.from_vae(latents_BCTHW), self.hidden, self.ending_HWC)


@dataclass(frozen=True, slots=True)
class FromTake(Beginning):
    """The end of an earlier take, where a new stream begins."""

    video: Path = Path()
    latents_BCTHW: Tensor | None = None  # the newest latents in the model's units, once they are read

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int | None) -> FromTake:
        header, newest_BCTHW = newest_ending(TakeFolder(self.video))
        self._refuse_other(header.config.geometry, config.geometry)
        count = newest_BCTHW.shape[2]
        if not count:
            raise ValueError(
                f"{WHO}: {self.video.name} has no latents to begin with: its newest snapshot is of its "
                f"beginning, or of the moment after a cut. "
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
                f"{WHO}: the take {self.video.name} is a stream of {had.width}x{had.height} with "
                f"{had.latent_channels} latent channels, this one is to be {has.width}x{has.height} with "
                f"{has.latent_channels}; set Stream Video's width and height to the take's, or connect its "
                f"video instead of the take."
            )


@dataclass(frozen=True, slots=True)
class Following(Beginning):
    """A whole video that every block begins with, under noise."""

    source: Any = None  # VIDEO or IMAGE
    fit: str = CROP  # one of incoming.FITS
    strength: float = 1.0  # share of noise, see `schedule.first_call`
    motion: float = 0.0  # so much less of it at full motion, see `motion.MovingStrength`
    may_redo: bool = False  # the video that is followed cannot be gone back in

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int | None) -> Following:
        refuse_following(config)
        first_moving_call(config.sigmas, self.strength, self.motion)
        with open_source(self.source, fps) as incoming:
            refuse_empty(incoming.take(1), incoming.name)
        return self

    @contextmanager
    def sound(self) -> Iterator[Sound | None]:
        """That of the video."""
        with open_sound(self.source) as sound:
            yield sound

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
            video = Fitted(incoming, *config.geometry.picture_size(), self.fit, upscale_of(vae))
            follow = Follow(video, encode, config, self.strength, self.motion)
            with refuse_full(caller, "while the first pictures of the video are encoded"):
                first = follow.block(0, 0)
            assert first is not None, "it was looked at before"
            yield follow


def refuse_empty(pixels_FHWC: Tensor, name: str) -> None:
    """ValueError where a video to follow gave no picture."""
    if not len(pixels_FHWC):
        raise ValueError(f"{WHO}: {name} has no picture to follow; it needs at least one.")


def whole_blocks(latents: int, block_frames: int) -> int:
    """The number of latent frames without an incomplete last block; fewer than one block stay."""
    return latents - latents % block_frames if latents > block_frames else latents


def newest_ending(folder: TakeFolder) -> tuple[Header, Tensor]:
    """The header and the latents of a take's newest good snapshot; ValueError where it has none."""
    reasons: list[str] = []
    for snapshot in reversed(folder.snapshots()):
        try:
            return read_ending(snapshot.path)
        except (OSError, ValueError) as why:
            reasons.append(str(why))
    why = reasons[0] if reasons else f"{folder.path.name} holds none."
    raise ValueError(
        f"{WHO}: the take {folder.video.name} has no good snapshot to begin with: {why} Choose another take, "
        f"or connect its video."
    )
