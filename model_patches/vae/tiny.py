"""Tiny decoders of the TAEHV family for streaming: memory blocks' buffers are passed in and returned.

B batch, C channels, F pixel frames, T latent frames, H/W of the picture or of the latent grid. Layout and key
names as the family publishes them (taew2_1 and lighttaew2_1 for Wan 2.1): convolutions of single pictures,
and memory blocks that also see the picture before. One picture goes through all layers before the next, so
however a stream is cut, every number is the same, and working memory is that of one latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..geometry import LATENT_CHANNELS
from .wan import LayerBuffers, SpentBuffers, in_vae_units

WIDTHS = (256, 128, 64, 64)  # of the published decoders
LEAD_FRAMES = 3  # pictures of a stream's first latent that stand before its first frame
WIDTH_KEYS = ("decoder.1.weight", "decoder.8.weight", "decoder.14.weight", "decoder.20.weight")


class Clamp(nn.Module):
    """Smooth clamp of latents to [-3, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """Three convolutions over a frame and the frame before it, and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
        )
        self.skip = nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x_BCHW: Tensor, past_BCHW: Tensor) -> Tensor:
        return self.act(self.conv(torch.cat([x_BCHW, past_BCHW], 1)) + self.skip(x_BCHW))


class FrameGrowth(nn.Module):
    """Expands a frame to `stride` frames along the batch axis."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(x_BCHW).reshape(-1, *x_BCHW.shape[1:])


class TinyDecoder(nn.Module):
    """A TAEHV decoder for Wan 2.1's latents, which come in the diffusion model's units."""

    def __init__(self, widths: Sequence[int] = WIDTHS, takes_vae_units: bool = False) -> None:
        """takes_vae_units: the layers were trained on the VAE's own units, as lighttaew2_1 was."""
        super().__init__()
        layers: list[nn.Module] = [Clamp(), _conv(LATENT_CHANNELS, widths[0]), nn.ReLU(inplace=True)]
        for width, finer, stride in zip(widths[:3], widths[1:], (1, 2, 2), strict=True):
            layers += [MemoryBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), FrameGrowth(width, stride), _conv(width, finer, False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(inplace=True), _conv(widths[3], 3))
        self.latent_channels, self.upscale, self.takes_vae_units = LATENT_CHANNELS, 1, takes_vae_units

    def decode(
        self, latents_BCTHW: Tensor, past: LayerBuffers | SpentBuffers | None = None
    ) -> tuple[Tensor, LayerBuffers]:
        """(pixels [B, 3, F, 8H, 8W] in about [-1, 1], past).

        T latents give 1 + 4(T - 1) frames on the first call of a stream, 4T on later ones.
        """
        if not latents_BCTHW.shape[2]:
            raise ValueError("TinyDecoder.decode: got 0 latent frames, needs 1 or more.")
        x = in_vae_units(latents_BCTHW) if self.takes_vae_units else latents_BCTHW
        pixels_BCFHW, past = decode_pictures(self.decoder, x, past)
        return 2 * pixels_BCFHW - 1, past


def decode_pictures(
    decoder: Sequence[nn.Module] | nn.Sequential,
    latents_BCTHW: Tensor,
    past: LayerBuffers | SpentBuffers | None = None,
) -> tuple[Tensor, LayerBuffers]:
    """(pixels [B, 3, F, 8H, 8W] in about [0, 1], past) of the family's layers, this module's or a host's.

    latents: [B, C, T, H, W] in the units the layers were trained on, T from 1. The buffers hold the newest
    input [B, c, 1, h, w] of each memory block, in the order of the layers.
    """
    layers = list(decoder)
    memory_layers = [index for index, layer in enumerate(layers) if has_memory(layer)]
    if past is not None and len(past) != len(memory_layers):
        raise ValueError(
            f"TinyDecoder: the past holds {len(past)} tensors, the decoder has {len(memory_layers)} memory "
            f"blocks; it is of another VAE, start with past=None."
        )
    start, newest = past is None, _newest(memory_layers, past)
    pictures = [
        picture_BCHW
        for latent_BCHW in latents_BCTHW.unbind(2)
        for picture_BCHW in _expand(layers, 0, latent_BCHW, newest)
    ]
    pixels_BCFHW = torch.stack(pictures[LEAD_FRAMES if start else 0 :], 2)
    return pixels_BCFHW, tuple(newest[index].unsqueeze(2) for index in memory_layers)


def _newest(memory_layers: Sequence[int], past: LayerBuffers | SpentBuffers | None) -> dict[int, Tensor]:
    """The buffers by their layers; a list of them is emptied."""
    pairs = zip(memory_layers, past or (), strict=past is not None)
    newest = {index: buffer[:, :, 0] for index, buffer in pairs if buffer is not None}
    if isinstance(past, list):
        past.clear()
    return newest


def has_memory(layer: Any) -> bool:
    """Whether a layer also sees the picture before."""
    return hasattr(layer, "conv") and hasattr(layer, "skip")


def _is_growth(layer: nn.Module) -> TypeGuard[FrameGrowth]:
    return hasattr(layer, "conv") and hasattr(layer, "stride")


def _expand(
    layers: Sequence[nn.Module], start: int, x_BCHW: Tensor, newest: dict[int, Tensor]
) -> Iterator[Tensor]:
    """Yields the frames that x becomes from layer `start` on, in order; updates `newest`."""
    for index in range(start, len(layers)):
        layer = layers[index]
        if has_memory(layer):
            newest[index], x_BCHW = x_BCHW, layer(x_BCHW, _previous(newest, index, x_BCHW))
        elif _is_growth(layer):
            count = len(x_BCHW)
            x_BCHW = layer(x_BCHW)
            for part_BCHW in x_BCHW.unflatten(0, (count, layer.stride)).unbind(1):
                yield from _expand(layers, index + 1, part_BCHW, newest)
            return
        else:
            x_BCHW = layer(x_BCHW)
    yield x_BCHW


def _previous(newest: Mapping[int, Tensor], index: int, like_BCHW: Tensor) -> Tensor:
    """The layer's input at the frame before; zeros at a stream's first frame."""
    return newest[index] if index in newest else torch.zeros_like(like_BCHW)


def _conv(width_in: int, width_out: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, padding=1, bias=bias)
