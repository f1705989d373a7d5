"""The whole flow in one function: a block of latents, its pictures, the writers, then the next block.

B batch, T latent frames, F pixel frames, L text tokens, E text_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from ..arch.tree import DiTTree
from ..attention.sdpa import Attention, sdpa
from ..geometry import Geometry
from ..sampler.noise import BlockNoise
from ..vae.decoder import StreamPast, VideoDecoder, decode_stream, from_tensors, to_tensors
from ..writer.protocol import Writer
from .follow import Follow
from .join import FADE_FRAMES, joined
from .step import StreamState, save, set_text, step

PIXEL_FRAMES = "pixel_frames"
DECODER = "decoder."
LOST = "lost"  # what the VAE lost of the picture before the stream's first; see `join`


@dataclass(frozen=True, slots=True)
class Chunk:
    """One block, told after every writer has taken its frames."""

    block: int  # counted from the start of the stream
    first_frame: int  # pixel frame
    pixels_FHWC: Tensor  # uint8
    state: StreamState  # goes on after this block; all a snapshot needs

    @property
    def end_frame(self) -> int:
        """Pixel frames of the stream so far."""
        return self.first_frame + len(self.pixels_FHWC)


def run(
    model: DiTTree,
    vae: VideoDecoder,
    state: StreamState,
    writers: Sequence[Writer],
    *,
    blocks: int | None = None,
    on_chunk: Callable[[Chunk], None] = lambda chunk: None,
    stop: Callable[[], bool] = lambda: False,
    new_text: Callable[[int], Tensor | None] = lambda block: None,
    attention: Attention = sdpa,
    noise: BlockNoise | None = None,
    follow: Follow | None = None,
) -> StreamState:
    """The state after so many more blocks (None: until told to stop), with their frames in the writers.

    Between blocks, and only there: `stop()` ends the stream and keeps everything (it may wait: that is a
    pause), and `new_text(block)` gives the text [B, L, E] that this block and the following ones are made
    with, or None. follow: an incoming video that every block begins with; the stream ends with it, and is
    not to be gone on with where the last block was not full. On an error or an interruption the last
    `Chunk.state` is where the stream stands; it agrees with the writers, which are closed and keep what they
    took.
    """
    if blocks is not None and blocks < 0:
        raise ValueError(
            f"Pipeline: blocks must be 0 or more, or None for a stream without end, got {blocks}."
        )
    past, frames = decoder_past(state), frames_made(state)
    _check_positions(writers, frames)
    with ExitStack() as open_writers:
        for writer in writers:
            open_writers.enter_context(writer)
        for _ in count() if blocks is None else range(blocks):
            if stop():
                break
            text_BLE = new_text(state.block)
            if text_BLE is not None:
                state = set_text(model, state, text_BLE)
            followed = None if follow is None else follow.block(state.block, state.start_frame)
            if follow is not None and followed is None:
                break
            begin = None if followed is None else followed.begin
            latents_BCTHW, after = step(model, state, attention=attention, noise=noise, begin=begin)
            pixels_FHWC, past = decode_stream(vae, latents_BCTHW, past)
            pixels_FHWC = pixels_FHWC if followed is None else pixels_FHWC[: followed.pictures]
            if LOST in state.extras:
                pixels_FHWC = joined(pixels_FHWC, state.extras[LOST], frames)
            for writer in writers:
                writer.write(pixels_FHWC)
            after = with_pixels(after, past, frames + len(pixels_FHWC))
            chunk = Chunk(state.block, frames, pixels_FHWC, after)
            state, frames = after, chunk.end_frame
            on_chunk(chunk)
    return state


def snapshot(model: DiTTree, state: StreamState, writers: Iterable[Writer], path: str | Path) -> None:
    """Saves the stream with its decoder's past and its writers' position, once all its frames are on disk."""
    for writer in writers:
        writer.seal()
    save(model, state, path)


def frames_made(state: StreamState) -> int:
    """Pixel frames that the stream has given to its writers; where a resumed writer starts."""
    made = state.extras.get(PIXEL_FRAMES)
    return 0 if made is None else int(made)


def decoder_past(state: StreamState) -> StreamPast | None:
    """What the decoder remembers of the stream, None at its start."""
    named = {name: tensor for name, tensor in state.extras.items() if name.startswith(DECODER)}
    return from_tensors({name.removeprefix(DECODER): tensor for name, tensor in named.items()})


def blocks_for(geometry: Geometry, block_frames: int, pixel_frames: int, latents: int = 0) -> int:
    """Fewest blocks that make a stream of so many latents one of so many pixel frames."""
    return max(0, -(-(geometry.latent_frames(pixel_frames) - latents) // block_frames))


def with_pixels(state: StreamState, past: StreamPast | None, frames: int) -> StreamState:
    """The state with what its decoder remembers and the pixel frames given to its writers."""
    kept = (name for name in state.extras if not name.startswith(DECODER))
    extras: Mapping[str, Tensor] = {
        **{name: state.extras[name] for name in kept if name != LOST or frames < FADE_FRAMES},
        **{DECODER + name: tensor for name, tensor in to_tensors(past).items()},
        PIXEL_FRAMES: torch.tensor(frames),
    }
    return replace(state, extras=extras)


def _check_positions(writers: Sequence[Writer], frames: int) -> None:
    for writer in writers:
        if writer.frames_written != frames:
            raise ValueError(
                f"Pipeline: the stream goes on at frame {frames}, {type(writer).__name__} at frame "
                f"{writer.frames_written}; open it with start_frame={frames}."
            )
