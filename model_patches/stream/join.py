"""Fade that hides the step from input frames to generated frames: the VAE changes colours and softens edges.

The difference between the last input frame and its decoded version is added to the first generated frames,
with a weight that falls to zero. F pixel frames, H/W pixels, three colours last.
"""

from __future__ import annotations

import torch
from torch import Tensor

FADE_FRAMES = 8  # half a second at 16 pictures a second


def missing_detail(input_HWC: Tensor, decoded_HWC: Tensor) -> Tensor:
    """Input frame minus its decoded version, float32 [H, W, 3]; both uint8, or both in [0, 1]."""
    return input_HWC.to(decoded_HWC.device).float() - decoded_HWC.float()


def blend_frames(pixels_FHWC: Tensor, missing_HWC: Tensor, offset: int) -> Tensor:
    """Generated frames [F, H, W, 3] plus the fading difference; dtype (uint8, or float in [0, 1]) stays.

    missing: from `missing_detail`, in the units of pixels. offset: generated frames since the last input
    frame, before these; from FADE_FRAMES on pixels come back as they are.
    """
    if not len(pixels_FHWC) or offset >= FADE_FRAMES:
        return pixels_FHWC
    frames = torch.arange(offset, offset + len(pixels_FHWC), device=pixels_FHWC.device)
    weights_F = (1 - frames / FADE_FRAMES).clamp_min(0)
    blended_FHWC = pixels_FHWC.float() + weights_F[:, None, None, None] * missing_HWC.to(pixels_FHWC.device)
    if pixels_FHWC.dtype == torch.uint8:
        return blended_FHWC.round().clamp(0, 255).to(torch.uint8)
    return blended_FHWC.clamp(0, 1).to(pixels_FHWC.dtype)
