"""No step where made pictures follow given ones: what the VAE lost of the last given one fades out over them.

A VAE gives back other colours and softer edges than it was given, so the first made picture would differ from
the last given one even if nothing moved. F pixel frames, H/W pixels, three colours last.
"""

from __future__ import annotations

import torch
from torch import Tensor

FADE_FRAMES = 8  # half a second at 16 pictures a second


def lost(given_HWC: Tensor, decoded_HWC: Tensor) -> Tensor:
    """What was lost of the last given picture, float32 [H, W, 3]; both uint8, or both in [0, 1]."""
    return given_HWC.to(decoded_HWC.device).float() - decoded_HWC.float()


def joined(pixels_FHWC: Tensor, lost_HWC: Tensor, after: int) -> Tensor:
    """Made pictures with what was lost put back, less from picture to picture; dtype and range stay.

    after: made pictures before these since the last given one.
    """
    if not len(pixels_FHWC) or after >= FADE_FRAMES:
        return pixels_FHWC
    frames = torch.arange(after, after + len(pixels_FHWC), device=pixels_FHWC.device)
    weights_F = (1 - frames / FADE_FRAMES).clamp_min(0)
    put_back_FHWC = pixels_FHWC.float() + weights_F[:, None, None, None] * lost_HWC.to(pixels_FHWC.device)
    if pixels_FHWC.dtype == torch.uint8:
        return put_back_FHWC.round().clamp(0, 255).to(torch.uint8)
    return put_back_FHWC.clamp(0, 1).to(pixels_FHWC.dtype)
