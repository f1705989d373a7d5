"""Begin a stream with pictures that were not made by it: they are remembered, and the decoder has seen them.

B batch, C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from torch import Tensor

from .arch.tree import DiTTree
from .attention.positions import PositionPreset, kept_frames
from .attention.sdpa import Attention, sdpa
from .pipeline import with_pixels
from .state import StreamState
from .stream import keep
from .vae.decoder import VideoVae, decode_stream


def remembered_latents(positions: PositionPreset, block_frames: int) -> int:
    """Latent frames to go on from: the most whole blocks that the next block sees, at least one.

    Where the window has no end, half of the trained length, so that there is room for what follows.
    """
    if positions.window_frames is None:
        seen = positions.trained_frames // 2
    else:
        assert positions.capacity_frames is not None
        sink, window = kept_frames(positions, positions.capacity_frames, block_frames)
        seen = len(sink) + len(window)
    return max(1, seen // block_frames) * block_frames


def begun(
    model: DiTTree,
    vae: VideoVae,
    state: StreamState,
    latents_BCTHW: Tensor,
    *,
    shown: bool,
    attention: Attention = sdpa,
) -> tuple[Tensor, StreamState]:
    """(uint8 pictures [F, H, W, 3] of the given latents, the state that goes on from them).

    latents: [1, C, T, H, W] in the model's units, of the first picture or of the end of a video. shown: the
    stream's video begins with these pictures, which the caller writes; else with those that follow. The
    decoder's past is theirs either way, so the pictures that follow join them without a step.
    """
    state = keep(model, state, latents_BCTHW, attention=attention)
    pixels_FHWC, past = decode_stream(vae, latents_BCTHW)
    return pixels_FHWC, with_pixels(state, past, len(pixels_FHWC) if shown else 0)
