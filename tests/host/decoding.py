"""Latents to decode, and a decoder fed with pieces of them."""

import torch


def latents(count, side=4):
    return torch.randn(1, 16, count, side, side, generator=torch.Generator().manual_seed(count))


def streamed(decoder, whole, cut, exact=True):
    past, parts = None, []
    for piece in whole.split(cut, 2):
        pixels, past = decoder.decode(piece, past, exact=exact)
        parts.append(pixels)
    pixels, past = decoder.decode(whole[:, :, :0], past, last=True, exact=exact)
    return torch.cat([*parts, pixels])
