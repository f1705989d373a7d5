"""Begin a stream with pictures that were not made by it: they are remembered, and the decoder has seen them.

B batch, C channels, T latent frames, F pixel frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..arch.tree import DiTTree
from ..attention.positions import PositionPreset, kept_frames
from ..attention.sdpa import Attention, sdpa
from ..cache.format import call_of
from ..memory.policy import visible
from ..sampler.denoise import given_like
from ..vae.decoder import VideoVae, decode_stream, encode_stream
from .join import lost
from .pipeline import LOST, with_pixels
from .state import StreamState
from .step import each_past, remembered, times_of


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


def pieces(frames: int, block_frames: int) -> list[int]:
    """Lengths in which so many given latent frames are run: whole blocks, and what is left over first."""
    rest = frames % block_frames
    return [rest] * bool(rest) + [block_frames] * (frames // block_frames)


@torch.inference_mode()
def keep(
    model: DiTTree, state: StreamState, latents_BCTHW: Tensor, *, attention: Attention = sdpa
) -> StreamState:
    """The state after latents [B, C, T, H, W] that were not made but given, any T from 1.

    One pass at timestep 0 for each block's length of them, a shorter one first, as Self-Forcing (arXiv
    2506.08009) takes its first frame in image-to-video. To be called before the first block; what leaves the
    window on the way goes to the memory. An error leaves `state` as it was.
    """
    config, count = state.config, latents_BCTHW.shape[2] if latents_BCTHW.ndim == 5 else 0
    if state.start_frame or not count:
        raise ValueError(
            f"Stream: latents {list(latents_BCTHW.shape)} were given to a stream that has "
            f"{state.start_frame} latent frames; give [streams, channels, frames, height, width] with at "
            f"least one frame, before the first block."
        )
    shape = config.geometry.latent_shape(count, state.text.batch)
    like = torch.empty(shape, dtype=config.latent_dtype, device=state.text.raw[0].device)
    latents_BCTHW = given_like(latents_BCTHW, like)
    (clean,) = times_of(model, (), config.dtype, like.device)
    for piece_BCTHW in latents_BCTHW.split(pieces(count, config.block_frames), 2):
        call = call_of(config.positions, state.start_frame, piece_BCTHW.shape[2])
        draft = state.cache.begin(call)
        draft.show(visible(state.policy, state.memory, call)[1])
        pasts = each_past(state, draft)
        state = remembered(model, state, draft, call, pasts, piece_BCTHW, clean, attention)
    return state


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
