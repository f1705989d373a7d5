"""Begin a stream with pictures that were not made by it: they are remembered, and the decoder has seen them.

B batch, C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from .arch.tree import DiTTree
from .attention.positions import PositionPreset, kept_frames
from .attention.sdpa import Attention, sdpa
from .join import lost
from .pipeline import LOST, with_pixels
from .state import StreamState
from .stream import keep
from .vae.decoder import VideoVae, decode_stream, encode_stream


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

    latents: [1, C, T, H, W] in the model's units, of a picture or of the newest frames of another stream.
    shown: the stream's video begins with these pictures, which the caller writes; else with those that
    follow. The decoder's past is theirs either way, so the pictures that follow join them.
    """
    state = keep(model, state, latents_BCTHW, attention=attention)
    pixels_FHWC, past = decode_stream(vae, latents_BCTHW)
    return pixels_FHWC, with_pixels(state, past, len(pixels_FHWC) if shown else 0)


def begun_with_picture(
    model: DiTTree, vae: VideoVae, state: StreamState, picture_HWC: Tensor, *, attention: Attention = sdpa
) -> StreamState:
    """The state of a stream whose first picture is this one, uint8 [H, W, 3], which the caller writes."""
    return _after(model, vae, state, picture_HWC[None], True, attention)


def gone_on(
    model: DiTTree, vae: VideoVae, state: StreamState, pixels_FHWC: Tensor, *, attention: Attention = sdpa
) -> StreamState:
    """The state that goes on where a video ends, of which these are the last pictures.

    pixels: uint8 [F, H, W, 3] of the stream's size, as many as some number of latents stands for (1, 5, 9,
    ...); `remembered_latents` is the number that is worth giving. The stream's own video begins after them.
    """
    geometry = state.config.geometry
    count = geometry.latent_frames(len(pixels_FHWC))
    if not count or geometry.pixel_frames(count) != len(pixels_FHWC):
        raise ValueError(
            f"Start: {len(pixels_FHWC)} pictures are no whole number of latents; give 1, or 1 more than a "
            f"multiple of {geometry.time_stride}, the last of the video."
        )
    return _after(model, vae, state, pixels_FHWC, False, attention)


def _after(
    model: DiTTree, vae: VideoVae, state: StreamState, pixels_FHWC: Tensor, shown: bool, attention: Attention
) -> StreamState:
    latents_BCTHW, _ = encode_stream(vae, pixels_FHWC)
    decoded_FHWC, state = begun(model, vae, state, latents_BCTHW, shown=shown, attention=attention)
    return replace(state, extras={**state.extras, LOST: lost(pixels_FHWC[-1], decoded_FHWC[-1])})
