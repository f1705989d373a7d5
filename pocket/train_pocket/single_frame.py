"""The VAE on single frames, at a fraction of a clip's cost: a video in which nothing moves needs no time.

Where nothing moves, a causal convolution over time is a convolution of one picture with the sum of its
frames' kernels; on the first frame of a stream, whose past is zero, with the kernel of the newest frame.
Pictures teach edges, shapes and colours from many more scenes than clips can in the same time.
"""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from ...model_patches.vae.wan import (
    AttentionBlock,
    CausalConv3d,
    Downsample,
    ResidualBlock,
    Tape,
    Upsample,
    WanVAE,
    per_frame,
)


def encode_frame(vae: WanVAE, pixels_BCHW: Tensor, first: bool) -> Tensor:
    """Latents [B, 16, 1, H/8, W/8] of pictures, in the diffusion model's units.

    first: as the first frame of a stream, else as any later one of a stream that stands still.
    """
    encoder = vae.encoder
    layers = (encoder.conv1, *encoder.downsamples, *encoder.middle, *encoder.head, vae.conv1)
    return vae.normalize(_run(layers, pixels_BCHW[:, :, None], first))


def decode_first_frame(vae: WanVAE, latents_BCHW: Tensor) -> Tensor:
    """Pixels [B, 3, 1, 8H, 8W] of latents [B, 16, 1, H, W], each as the first of a stream."""
    decoder = vae.decoder
    layers = (decoder.conv1, *decoder.middle, *decoder.upsamples, *decoder.head)
    return _run(layers, vae.conv2(vae.denormalize(latents_BCHW)), first=True)


def _run(layers: Iterable[nn.Module], x: Tensor, first: bool) -> Tensor:
    for layer in layers:
        if isinstance(layer, CausalConv3d):
            x = _convolve(layer, x, first)
        elif isinstance(layer, ResidualBlock):
            wider = isinstance(layer.shortcut, CausalConv3d)
            shortcut = _convolve(layer.shortcut, x, first) if wider else x
            x = shortcut + _run(layer.residual, x, first)
        elif isinstance(layer, Downsample):
            x = per_frame(layer.resample, x)
            x = _convolve(layer.time_conv, x, first) if layer.time and not first else x
        elif isinstance(layer, Upsample):
            x = per_frame(layer.resample, x)  # the first frame of a stream is not doubled
        else:
            x = layer(x, Tape(None)) if isinstance(layer, AttentionBlock) else layer(x)
    return x


def _convolve(conv: CausalConv3d, x: Tensor, first: bool) -> Tensor:
    kernel = conv.weight[:, :, -1] if first else conv.weight.sum(2)
    return F.conv2d(x[:, :, 0], kernel, conv.bias, padding=conv.padding[1:])[:, :, None]
