"""How many latents of another video a stream goes on from, and their pictures as latents.

B batch, C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from torch import Tensor

from ..attention.positions import PositionPreset, cached_frames
from ..geometry import Geometry
from ..vae.decoder import VideoVae, encode_stream
from .pipeline import Prefill


def context_latents(positions: PositionPreset, block_frames: int) -> int:
    """Latent frames to go on from: the most whole blocks that the next block sees, at least one.

    Where the window has no end, half of the trained length, so that there is room for what follows.
    """
    if positions.window_frames is None:
        seen = positions.trained_frames // 2
    else:
        assert positions.capacity_frames is not None
        sink, window = cached_frames(positions, positions.capacity_frames, block_frames)
        seen = len(sink) + len(window)
    return max(1, seen // block_frames) * block_frames


def from_picture(vae: VideoVae, picture_HWC: Tensor) -> Prefill:
    """The beginning of a stream whose first picture is this one, uint8 [H, W, 3]."""
    latents_BCTHW, _ = encode_stream(vae, picture_HWC[None])
    return Prefill(latents_BCTHW, 0, picture_HWC)


def from_video(vae: VideoVae, pixels_FHWC: Tensor, geometry: Geometry) -> Prefill:
    """The beginning of a stream that goes on where a video ends, of which these are the last pictures.

    pixels: uint8 [F, H, W, 3] of the stream's size, as many as some number of latents stands for (1, 5, 9,
    ...); `context_latents` is the number that is worth giving. The stream's own video begins after them.
    """
    count = geometry.latent_frames(len(pixels_FHWC))
    if not count or geometry.pixel_frames(count) != len(pixels_FHWC):
        raise ValueError(
            f"Start: {len(pixels_FHWC)} pictures are no whole number of latents; give 1, or 1 more than a "
            f"multiple of {geometry.time_stride}, the last of the video."
        )
    latents_BCTHW, _ = encode_stream(vae, pixels_FHWC)
    return Prefill(latents_BCTHW, len(pixels_FHWC), pixels_FHWC[-1])
