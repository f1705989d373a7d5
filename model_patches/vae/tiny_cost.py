"""Cost of a tiny decoder, by formulas from its widths: weights, layer buffers, peak memory, work.

The stages of `vae.tiny.TinyDecoder`, coarse to fine, are the only table. One picture goes through all layers
before the next, so a piece holds little more than its last picture needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..geometry import LATENT_CHANNELS
from .tiny import WIDTHS

RGB = 3


@dataclass(frozen=True, slots=True)
class TinyStage:
    """Three memory blocks at one size, 2x upsampling, expansion to `grows` frames, a convolution."""

    width: int  # channels
    finer: int  # channels after it
    grows: int
    pictures: int  # of a latent
    scale: int  # places of a picture for each place of the latent


@dataclass(frozen=True, slots=True)
class TinyCost:
    """A tiny decoder of any widths; counts are of a piece after the first of a stream."""

    widths: tuple[int, ...] = WIDTHS
    unused: int = 0  # numbers in loaded weights that decoding does not use, the encoder's
    name: str = "tiny"
    upscale: int = 1

    @property
    def stages(self) -> Iterator[TinyStage]:
        """Coarse to fine."""
        pictures, scale = 1, 1
        for width, finer, grows in zip(self.widths[:3], self.widths[1:], (1, 2, 2), strict=True):
            yield TinyStage(width, finer, grows, pictures, scale)
            pictures, scale = pictures * grows, 4 * scale

    @property
    def parameters(self) -> int:
        first, last = self.widths[0], self.widths[3]
        total = 9 * LATENT_CHANNELS * first + first + 9 * last * RGB + RGB + self.unused
        for stage in self.stages:
            total += _memory_weights(stage) + stage.grows * stage.width**2 + 9 * stage.width * stage.finer
        return total

    def weight_reads(self, latents: int) -> int:
        first, last = self.widths[0], self.widths[3]
        total = 9 * LATENT_CHANNELS * first + first + 4 * (9 * last * RGB + RGB)
        for stage in self.stages:
            total += stage.pictures * (_memory_weights(stage) + stage.grows * stage.width**2)
            total += stage.pictures * stage.grows * 9 * stage.width * stage.finer
        return latents * total

    def buffers(self, places: int) -> int:
        return places * sum(3 * stage.width * stage.scale for stage in self.stages)

    def peak(self, latents: int, places: int) -> int:
        """The new buffers and, in the last convolution of the last picture: its input, all pictures made, and
        what each stage's pictures grew into, since the first of them is gone through before the second. A
        decoder narrower than a few channels holds more when all pictures are brought to [-1, 1]."""
        grown = sum(4 * stage.scale * stage.grows * stage.width for stage in self.stages)
        made = 64 * 4 * RGB * latents
        return self.buffers(places) + places * max(grown + 64 * self.widths[3] + made, 3 * made)

    def flops(self, latents: int, places: int) -> int:
        """Convolutions; one multiplication with its addition is 2."""
        first, last = self.widths[0], self.widths[3]
        products = 9 * LATENT_CHANNELS * first + 64 * 4 * 9 * last * RGB
        for stage in self.stages:
            fine = 4 * stage.scale * stage.pictures * stage.grows
            products += stage.scale * stage.pictures * 3 * 36 * stage.width**2
            products += fine * (stage.width**2 + 9 * stage.width * stage.finer)
        return 2 * latents * places * products

    def traffic(self, latents: int, places: int) -> int:
        """Operation by operation: what convolutions read and write (7 activations a memory block), joining
        with the picture before 4, three activations 6, the sum 3; doubling 5 of its inputs."""
        first, last = self.widths[0], self.widths[3]
        # tanh and its two scalings, the first convolution and activation
        total = 6 * LATENT_CHANNELS + LATENT_CHANNELS + 3 * first
        # the last activation and convolution, then stacking the pictures and bringing them to [-1, 1]
        total += 64 * 4 * (3 * last + RGB + 2 * RGB + 4 * RGB)
        for stage in self.stages:
            here = stage.scale * stage.pictures
            total += here * stage.width * (3 * (7 + 13) + 5)
            total += 4 * here * stage.width * (1 + stage.grows)
            total += 4 * here * stage.grows * (stage.width + stage.finer)
        return latents * places * total


def _memory_weights(stage: TinyStage) -> int:
    """Three blocks of three convolutions, the first of twice the width."""
    return 3 * (36 * stage.width**2 + 3 * stage.width)
