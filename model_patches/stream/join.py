"""Fade that hides the step from input frames to generated frames: the VAE changes colours and softens edges.

The difference between the last input frame and its decoded version is added to the first generated frames,
with a weight that falls to zero. F pixel frames, H/W pixels, three colours last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Geometry

FADE_FRAMES = 8  # half a second at 16 pictures a second


def missing_detail(input_HWC: Tensor, decoded_HWC: Tensor) -> Tensor:
    """Input frame minus its decoded version, float32 [H, W, 3]; both uint8, or both in [0, 1].

    Where the decoder draws twice the size of the input, both are compared at the input's size: what the
    decoder drew between its pixels stays.
    """
    input_HWC, decoded_HWC = input_HWC.to(decoded_HWC.device).float(), decoded_HWC.float()
    if input_HWC.shape == decoded_HWC.shape:
        return input_HWC - decoded_HWC
    reduced_1CHW = F.interpolate(_channels_first(decoded_HWC), input_HWC.shape[:2], mode="area")
    lost_1CHW = _channels_first(input_HWC) - reduced_1CHW
    size = decoded_HWC.shape[:2]
    return F.interpolate(lost_1CHW, size, mode="bicubic", align_corners=False)[0].permute(1, 2, 0)


def _channels_first(picture_HWC: Tensor) -> Tensor:
    return picture_HWC.permute(2, 0, 1)[None]


def times_to_put_back(width: int, height: int, geometry: Geometry, upscale: int) -> int:
    """Times of the stream's size at which a given picture of this size is compared with the decoder's.

    That of the decoder's pictures where it is nearer to it than to the stream's, and else the stream's.
    """
    covers = min(width / geometry.width, height / geometry.height)
    return upscale if covers >= (1 + upscale) / 2 else 1


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
