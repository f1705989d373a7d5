"""Video to video: every block of a stream begins with a block of an incoming video under noise.

An incoming video of any length is read, encoded and followed block by block at constant memory, as
StreamDiffusionV2 (arXiv 2511.07399) does with few-step causal models.

C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..geometry import Geometry
from ..sampler.denoise import InitLatents
from ..sampler.schedule import first_call
from ..vae.decoder import VaeBuffers, VideoVae, encode_stream
from .config import StreamConfig
from .incoming import Incoming
from .motion import MovingStrength
from .rolling import refuse_following


class Encode(Protocol):
    """A streaming encoder: one picture makes the first latent, every four another."""

    def __call__(self, pixels_FHWC: Tensor, past: Any, *, last: bool) -> tuple[Tensor, Any]:
        """(latents [1, C, T, H, W] that are ready, past); last: nothing follows, so none waits."""
        ...


@dataclass(frozen=True, slots=True)
class Followed:
    """What one block begins with."""

    begin: InitLatents
    pictures: int  # of the incoming video; in its last block the rest stands still and is not shown


def encoder_of(vae: VideoVae) -> Encode:
    """The engine's own encoder, which keeps no latent waiting."""

    def encode(pixels_FHWC: Tensor, past: VaeBuffers | None, *, last: bool) -> tuple[Tensor, Any]:
        return encode_stream(vae, pixels_FHWC, past)

    return encode


def first_moving_call(levels: Sequence[float], strength: float, motion: float) -> int:
    """`first_call` of a strength that motion takes so much off; ValueError where either does not go."""
    call = first_call(levels, strength)
    if not 0 <= motion < strength or strength - motion < levels[-1]:
        raise ValueError(
            f"Start: motion {motion:g} takes strength {strength:g} down to "
            f"{max(0.0, strength - motion):.3g}, and this model's lowest noise level is {levels[-1]:.3f}; "
            f"set motion from 0 to {max(0.0, strength - levels[-1]):.2f}, or raise strength."
        )
    return call


class Follow:
    """An incoming video as a stream follows it.

    The stream's video has as many pictures as the incoming one: where its last block is not full, its last
    picture stands still for the rest of the block, and that rest is cut off.
    """

    def __init__(
        self, source: Incoming, encode: Encode, config: StreamConfig, strength: float, motion: float = 0.0
    ) -> None:
        """source: pictures of the stream's size at the stream's rate.

        strength: share of noise put over the video, see `schedule.first_call`: little changes little, 1
        follows nothing where the first level is noise alone. motion: so much less of it where the pictures
        move fast, see `MovingStrength`; the share is then exact, 0 rounds it to the stream's levels.
        """
        refuse_following(config)
        self.call = first_moving_call(config.sigmas, strength, motion)
        self._levels = config.sigmas
        self._moving = MovingStrength(strength, motion) if motion else None
        self._source, self._encode = source, encode
        self._geometry: Geometry = config.geometry
        self._frames = config.block_frames
        self._past: Any = None
        self._ready: list[Tensor] = []  # latents, one by one, that no block has taken
        self._unused: list[Tensor] = []  # pictures, one by one, of which no block was made
        self._fed = 0  # of those, so many are encoded
        self._ended = False
        self._newest: tuple[int, Followed | None] = (-1, None)

    def block(self, number: int, start_frame: int) -> Followed | None:
        """What this block begins with, None where the video has ended; the newest one can be asked for again.

        start_frame: first latent frame of the block in its scene; 0 begins the encoder anew.
        """
        if number != self._newest[0]:
            self._newest = (number, self._next(start_frame))
        return self._newest[1]

    def _next(self, start_frame: int) -> Followed | None:
        frames, geometry = self._frames, self._geometry
        needed = geometry.pixel_frames(start_frame + frames) - geometry.pixel_frames(start_frame)
        if not start_frame:
            self._past, self._ready, self._fed = None, [], 0
        self._read(needed)
        pictures = min(needed, len(self._unused))
        if not pictures:
            return None
        while len(self._ready) < frames:
            missing = frames - len(self._ready)
            begins = self._past is None
            want = geometry.pixel_frames(missing) if begins else geometry.time_stride * missing
            self._read(self._fed + want)
            self._feed(want, needed)
        latents_BCTHW = torch.cat(self._ready[:frames], 2)
        shown, self._unused = self._unused[:pictures], self._unused[pictures:]
        self._ready = self._ready[frames:]
        self._fed = max(0, self._fed - pictures)
        return Followed(self._begin(latents_BCTHW, shown), pictures)

    def _begin(self, latents_BCTHW: Tensor, shown: list[Tensor]) -> InitLatents:
        """The latents of these pictures under their noise."""
        if self._moving is None:
            return InitLatents(latents_BCTHW, self.call)
        level = self._moving.of_block(shown)
        call = first_call(self._levels, level)
        return InitLatents(latents_BCTHW, call, max(level, self._levels[call]))

    def _read(self, count: int) -> None:
        """Have so many unused pictures, or all there are."""
        missing = count - len(self._unused)
        if missing <= 0 or self._ended:
            return
        taken_FHWC = self._source.take(missing)
        self._ended = len(taken_FHWC) < missing
        self._unused += [taken_FHWC[i : i + 1] for i in range(len(taken_FHWC))]

    def _feed(self, want: int, needed: int) -> None:
        """Encode the next pictures; at the video's end its last one again, until the block is full."""
        pictures = self._unused[self._fed : self._fed + want]
        short = needed - self._fed - len(pictures)
        last = self._ended and self._fed + len(pictures) == len(self._unused)
        if last and short > 0:
            pictures += [self._unused[-1]] * short
        size = (0, self._geometry.height, self._geometry.width, 3)
        pixels_FHWC = torch.cat(pictures) if pictures else self._unused[-1].new_empty(size)
        latents_BCTHW, self._past = self._encode(pixels_FHWC, self._past, last=last)
        assert pictures or latents_BCTHW.shape[2], "the encoder keeps a latent back at the video's end"
        self._ready += [latents_BCTHW[:, :, i : i + 1] for i in range(latents_BCTHW.shape[2])]
        self._fed += len(pictures)
