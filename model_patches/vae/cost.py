"""What decoding costs, by formulas from the decoder's width: weights, its past, live numbers, work.

T latent frames of a piece in the middle of a stream, H/W of the latent grid, D the decoder's width `dim`
(Wan 2.1: 96). The stages of `vae.wan.Decoder`, coarse to fine, are the only table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..geometry import LATENT_CHANNELS


class DecoderCost(Protocol):
    """What a plan asks of a decoder; in numbers, which the dtype makes bytes of."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def loaded(self) -> int:
        """In all weights that are loaded, an encoder's included."""
        ...

    def weight_reads(self, latents: int) -> int:
        """In the weights that a piece of so many latents reads, as often as it reads them."""
        ...

    def past(self, places: int) -> int:
        """Kept from piece to piece."""
        ...

    def live(self, latents: int, places: int) -> int:
        """Most that one piece holds beside its weights and the past it came with."""
        ...

    def flops(self, latents: int, places: int) -> int:
        """Work of a piece."""
        ...

    def moved(self, latents: int, places: int) -> int:
        """Read and written by a piece, weights besides."""
        ...


@dataclass(frozen=True, slots=True)
class WanCost:
    """Wan 2.1's VAE of any width."""

    dim: int = 96  # the published one's
    name: str = "wan"

    @property
    def loaded(self) -> int:
        """Encoder and decoder."""
        return vae_parameters(self.dim)

    def weight_reads(self, latents: int) -> int:
        """The decoder's, once."""
        return decoder_parameters(self.dim)

    def past(self, places: int) -> int:
        """Two frames a layer."""
        return past_numbers(self.dim, places)

    def live(self, latents: int, places: int) -> int:
        """In the last residual block."""
        return live_numbers(self.dim, latents, places)

    def flops(self, latents: int, places: int) -> int:
        """Convolutions and attention."""
        return decode_flops(self.dim, latents, places)

    def moved(self, latents: int, places: int) -> int:
        """Operation by operation."""
        return moved_numbers(self.dim, latents, places)


WAN_VAE = WanCost()


@dataclass(frozen=True, slots=True)
class Stage:
    """Three residual blocks at one size, and the doubling after them."""

    width_in: int  # channels
    width: int  # channels
    frames: int  # of a piece
    places: int  # rows times columns
    doubles: bool  # whether a picture of twice the size and half the width follows
    doubles_frames: bool

    @property
    def volume(self) -> int:
        """Numbers in one activation."""
        return self.width * self.frames * self.places


def stages(dim: int, latents: int, places: int) -> tuple[Stage, ...]:
    """The decoder's stages for a piece of so many latents of so many places, its stream already begun."""
    return (
        Stage(4 * dim, 4 * dim, latents, places, True, True),
        Stage(2 * dim, 4 * dim, 2 * latents, 4 * places, True, True),
        Stage(2 * dim, 2 * dim, 4 * latents, 16 * places, True, False),
        Stage(dim, dim, 4 * latents, 64 * places, False, False),
    )


def decoder_parameters(dim: int, latent_channels: int = LATENT_CHANNELS) -> int:
    """Numbers in the weights that decoding uses (Wan 2.1, arXiv 2503.20314, section 4.1)."""
    wide = 4 * dim
    middle = 2 * _residual_parameters(wide, wide) + wide + wide * 3 * wide + 3 * wide + wide * wide + wide
    edges = latent_channels * (latent_channels + 1) + _conv(latent_channels, wide) + dim + _conv(dim, 3)
    return middle + edges + sum(_stage_parameters(stage) for stage in stages(dim, 1, 1))


def vae_parameters(dim: int, latent_channels: int = LATENT_CHANNELS) -> int:
    """Numbers in all weights, the encoder's included, which a loaded VAE holds though decoding needs none."""
    wide, moments = 4 * dim, 2 * latent_channels
    total = _conv(3, dim) + wide + _conv(wide, moments) + moments * (moments + 1)
    total += 2 * _residual_parameters(wide, wide) + wide + wide * 3 * wide + 3 * wide + wide * wide + wide
    for index, (before, width) in enumerate(((dim, dim), (dim, 2 * dim), (2 * dim, wide), (wide, wide))):
        total += _residual_parameters(before, width) + _residual_parameters(width, width)
        if index < 3:
            total += width * width * 9 + width
        if index in (1, 2):
            total += width * width * 3 + width
    return total + decoder_parameters(dim, latent_channels)


def past_numbers(dim: int, places: int, latent_channels: int = LATENT_CHANNELS) -> int:
    """Numbers that every layer's two newest frames come to, kept from piece to piece."""
    kept = [2 * latent_channels * places, 2 * 4 * 4 * dim * places]  # conv1; the middle's two residual blocks
    for stage in stages(dim, 1, places):
        kept.append(2 * (stage.width_in + 5 * stage.width) * stage.places)
        kept.append(2 * stage.width * stage.places if stage.doubles_frames else 0)
    return sum(kept) + 2 * dim * 64 * places


def live_numbers(dim: int, latents: int, places: int, latent_channels: int = LATENT_CHANNELS) -> int:
    """Most numbers one piece holds at once beside its weights and the past it came with.

    In the second convolution of the last residual block: the block's input, the activation, the same with two
    frames before it, and the result; and the new past of every layer but the head. A convolution's own
    working memory is the library's choice and comes on top.
    """
    last = stages(dim, latents, places)[-1]
    frame = last.width * last.places
    fresh = past_numbers(dim, places, latent_channels) - 2 * frame
    return 4 * last.volume + 2 * frame + fresh + latent_channels * latents * places


def decode_flops(dim: int, latents: int, places: int, latent_channels: int = LATENT_CHANNELS) -> int:
    """FLOPs of a piece in the middle of a stream: convolutions, and attention over the places of a frame."""
    wide, tokens = 4 * dim, latents * places
    products = tokens * (latent_channels**2 + 27 * latent_channels * wide)
    products += tokens * (4 * 27 * wide * wide + 4 * wide * wide + 2 * places * wide)
    for stage in stages(dim, latents, places):
        here = stage.frames * stage.places
        products += here * 27 * stage.width * (stage.width_in + 5 * stage.width)
        products += here * stage.width_in * stage.width if stage.width_in != stage.width else 0
        products += here * 3 * stage.width * 2 * stage.width if stage.doubles_frames else 0
        finer = 4 * here * (2 if stage.doubles_frames else 1)
        products += finer * 9 * stage.width * (stage.width // 2) if stage.doubles else 0
    last = stages(dim, latents, places)[-1]
    return 2 * (products + last.frames * last.places * 27 * last.width * 3)


def moved_numbers(dim: int, latents: int, places: int) -> int:
    """Numbers that a piece reads and writes, operation by operation, as half precision does it on a GPU.

    A residual block moves 29 activations (twice: norm 7, SiLU 2, frames put before it 2, convolution 2; sum
    3), the head 12, every past 4; doubling a picture moves 13 of its inputs, doubling frames as many before.
    The coarse layers before the stages are left out.
    """
    rows = stages(dim, latents, places)
    total = 4 * past_numbers(dim, places) + 12 * rows[-1].volume
    for stage in rows:
        doubled = (26 + 13 if stage.doubles_frames else 13) if stage.doubles else 0
        total += (3 * 29 + doubled) * stage.volume
    return total


def _stage_parameters(stage: Stage) -> int:
    width = stage.width
    total = _residual_parameters(stage.width_in, width) + 2 * _residual_parameters(width, width)
    total += width * 2 * width * 3 + 2 * width if stage.doubles_frames else 0
    return total + (9 * width * (width // 2) + width // 2 if stage.doubles else 0)


def _residual_parameters(width_in: int, width: int) -> int:
    shortcut = width_in * width + width if width_in != width else 0
    return width_in + _conv(width_in, width) + width + _conv(width, width) + shortcut


def _conv(width_in: int, width_out: int) -> int:
    return 27 * width_in * width_out + width_out
