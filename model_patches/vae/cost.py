"""Cost of decoding, by formulas from the decoder's width: weights, layer buffers, peak memory, work.

T latent frames of a piece after the first of a stream, H/W of the latent grid, D the decoder's width `dim`
(Wan 2.1: 96). The stages of `vae.wan.Decoder`, coarse to fine, are the only table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..geometry import LATENT_CHANNELS


class DecoderCost(Protocol):
    """Cost of a decoder, in numbers (times the dtype's size: bytes) or FLOPs.

    latents: T of a piece. places: height times width of the latent grid."""

    @property
    def name(self) -> str:
        """The decoder's name for users."""
        ...

    @property
    def parameters(self) -> int:
        """Numbers in all loaded weights, an encoder's included."""
        ...

    @property
    def upscale(self) -> int:
        """Times of 8 pixels that a latent's place measures in the pictures."""
        ...

    def weight_reads(self, latents: int) -> int:
        """Numbers of weights that a piece reads, each counted as often as it is read."""
        ...

    def buffers(self, places: int) -> int:
        """Numbers in the layer buffers that stay from piece to piece."""
        ...

    def peak(self, latents: int, places: int) -> int:
        """Peak of numbers alive during a piece, without its weights and the buffers it got."""
        ...

    def flops(self, latents: int, places: int) -> int:
        """FLOPs of a piece."""
        ...

    def traffic(self, latents: int, places: int) -> int:
        """Numbers that a piece reads and writes, without weights."""
        ...


@dataclass(frozen=True, slots=True)
class WanCost:
    """Wan 2.1's VAE of any width; upscale: as `vae.wan.WanVAE`."""

    dim: int = 96  # the published one's
    name: str = "wan"
    in_pairs: bool = False  # run as ComfyUI does, see `paired_peak_numbers`
    upscale: int = 1

    @property
    def parameters(self) -> int:
        return vae_parameters(self.dim, upscale=self.upscale)

    def weight_reads(self, latents: int) -> int:
        return decoder_parameters(self.dim, upscale=self.upscale)

    def buffers(self, places: int) -> int:
        return buffer_numbers(self.dim, places)

    def peak(self, latents: int, places: int) -> int:
        count = paired_peak_numbers if self.in_pairs else peak_numbers
        return count(self.dim, latents, places, upscale=self.upscale)

    def flops(self, latents: int, places: int) -> int:
        return decode_flops(self.dim, latents, places, upscale=self.upscale)

    def traffic(self, latents: int, places: int) -> int:
        return traffic_numbers(self.dim, latents, places, self.upscale)


WAN_VAE = WanCost()


@dataclass(frozen=True, slots=True)
class Stage:
    """Three residual blocks at one size, and the upsampling after them."""

    width_in: int  # channels
    width: int  # channels
    frames: int  # of a piece
    places: int  # rows times columns
    doubles: bool  # upsampled to twice the size and half the channels
    doubles_frames: bool  # upsampled to twice the frames

    @property
    def volume(self) -> int:
        """Numbers in one activation."""
        return self.width * self.frames * self.places


def stages(dim: int, latents: int, places: int) -> tuple[Stage, ...]:
    """The decoder's stages for a piece after the first of a stream."""
    return (
        Stage(4 * dim, 4 * dim, latents, places, True, True),
        Stage(2 * dim, 4 * dim, 2 * latents, 4 * places, True, True),
        Stage(2 * dim, 2 * dim, 4 * latents, 16 * places, True, False),
        Stage(dim, dim, 4 * latents, 64 * places, False, False),
    )


def decoder_parameters(dim: int, latent_channels: int = LATENT_CHANNELS, upscale: int = 1) -> int:
    """Numbers in the weights that decoding uses (Wan 2.1, arXiv 2503.20314, section 4.1)."""
    wide = 4 * dim
    middle = 2 * _residual_parameters(wide, wide) + wide + wide * 3 * wide + 3 * wide + wide * wide + wide
    edges = latent_channels * (latent_channels + 1) + _conv(latent_channels, wide) + dim
    edges += _conv(dim, head_channels(upscale))
    return middle + edges + sum(_stage_parameters(stage) for stage in stages(dim, 1, 1))


def vae_parameters(dim: int, latent_channels: int = LATENT_CHANNELS, upscale: int = 1) -> int:
    """Numbers in all weights of a loaded VAE, the encoder's included."""
    wide, moments = 4 * dim, 2 * latent_channels
    total = _conv(3, dim) + wide + _conv(wide, moments) + moments * (moments + 1)
    total += 2 * _residual_parameters(wide, wide) + wide + wide * 3 * wide + 3 * wide + wide * wide + wide
    for index, (before, width) in enumerate(((dim, dim), (dim, 2 * dim), (2 * dim, wide), (wide, wide))):
        total += _residual_parameters(before, width) + _residual_parameters(width, width)
        if index < 3:
            total += width * width * 9 + width
        if index in (1, 2):
            total += width * width * 3 + width
    return total + decoder_parameters(dim, latent_channels, upscale)


def head_channels(upscale: int) -> int:
    """Channels in which a decoder ends."""
    return 3 * upscale**2


def buffer_numbers(dim: int, places: int, latent_channels: int = LATENT_CHANNELS) -> int:
    """Numbers in the layer buffers, the two newest frames of every causal layer."""
    sizes = [
        2 * latent_channels * places,
        2 * 4 * 4 * dim * places,
    ]  # conv1; the middle's two residual blocks
    for stage in stages(dim, 1, places):
        sizes.append(2 * (stage.width_in + 5 * stage.width) * stage.places)
        sizes.append(2 * stage.width * stage.places if stage.doubles_frames else 0)
    return sum(sizes) + 2 * dim * 64 * places


def peak_numbers(
    dim: int, latents: int, places: int, latent_channels: int = LATENT_CHANNELS, upscale: int = 1
) -> int:
    """Peak of numbers alive during a piece, without its weights and the buffers it got.

    In the second convolution of the last residual block: the block's input, the activation, the same with two
    frames before it, and the result; and the new buffers of every layer but the head. Or, in a narrow
    decoder, where its pictures' channels are shuffled. A convolution's own working memory is the library's
    choice and comes on top.
    """
    last = stages(dim, latents, places)[-1]
    buffers, given = buffer_numbers(dim, places, latent_channels), latent_channels * latents * places
    shuffled = 0 if upscale == 1 else 2 * head_channels(upscale) * last.frames * last.places
    return buffers + max(4 * last.volume + given, shuffled)


def paired_peak_numbers(
    dim: int, latents: int, places: int, latent_channels: int = LATENT_CHANNELS, upscale: int = 1
) -> int:
    """`peak_numbers` where two frames go through all finer stages before the next two of a doubling do.

    In the second convolution of the last residual block, for the last two pictures: the block's input, the
    activation, and the same with two frames before it; all new buffers; the frames that the two doublings in
    time made; and the pictures before.
    """
    coarse, middle, _, last = stages(dim, latents, places)
    pair = 2 * last.width * last.places
    doubled = (2 * coarse.frames * 4 * coarse.places + 4 * 4 * middle.places) * 2 * dim
    pictures = head_channels(upscale) * (last.frames - 2) * last.places
    given = latent_channels * latents * places
    return buffer_numbers(dim, places, latent_channels) + 4 * pair + doubled + pictures + given


def decode_flops(
    dim: int, latents: int, places: int, latent_channels: int = LATENT_CHANNELS, upscale: int = 1
) -> int:
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
    return 2 * (products + last.frames * last.places * 27 * last.width * head_channels(upscale))


def traffic_numbers(dim: int, latents: int, places: int, upscale: int = 1) -> int:
    """Numbers that a piece reads and writes, operation by operation, as half precision does it on a GPU.

    A residual block moves 29 activations (twice: norm 7, SiLU 2, frames put before it 2, convolution 2; sum
    3), the head 12, every buffer 4; doubling a picture moves 13 of its inputs, doubling frames as
    many before; channels that are shuffled to larger pictures are written, read and written. The coarse
    layers before the stages are left out.
    """
    rows = stages(dim, latents, places)
    total = 4 * buffer_numbers(dim, places) + 12 * rows[-1].volume
    for stage in rows:
        doubled = (26 + 13 if stage.doubles_frames else 13) if stage.doubles else 0
        total += (3 * 29 + doubled) * stage.volume
    shuffled = 0 if upscale == 1 else 3 * head_channels(upscale)
    return total + shuffled * rows[-1].frames * rows[-1].places


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
