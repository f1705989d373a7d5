"""A stream of latents: `init` makes its state, `step` takes one and returns the next with a block of latents.

`keep` puts given latents before the first block: a picture or the end of a video to go on from.

B batch, C channels, T latent frames, H/W of the latent grid, L text tokens, E text_dim, R batch rows. One
model serves any number of streams. What comes out are inference tensors: to train on them, clone them outside
inference mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from .arch.parts import embed_time, patchify
from .arch.tree import DiTTree
from .attention.forward import Time, forward, remember
from .attention.past import Past
from .attention.rope import layout_of
from .attention.sdpa import Attention, sdpa
from .attention.text import TextRows, TextState, read_text
from .cache.dense import DENSE
from .cache.format import CacheFormat, CacheShape, Draft, call_of
from .sampler.denoise import Begin, denoise, guide
from .sampler.noise import BlockNoise, KeyedNoise
from .snapshot import load, save
from .state import StreamConfig, StreamState

Made = TypeVar("Made")

__all__ = ["StreamConfig", "StreamState", "init", "keep", "load", "save", "set_text", "step", "take"]


@torch.inference_mode()
def init(
    model: DiTTree,
    text_BLE: Tensor,
    config: StreamConfig,
    negative_BLE: Tensor | None = None,
    *,
    reserve_frames: int = 0,
    cache: CacheFormat = DENSE,
) -> StreamState:
    """The state before the first block, on the text's device, which must be the model's.

    negative: needed if config.cfg is not 1, else left out. reserve_frames: latent frames to make room for at
    once where the window has no end; such a cache doubles whenever it is full. cache: how frames are kept.
    """
    raw = _branches(config, text_BLE, negative_BLE)
    device = text_BLE.device
    latents = torch.zeros(config.geometry.latent_shape(1), dtype=config.dtype, device=device)
    text = _with_words(lambda: read_text(model, raw), config, text_BLE)
    tokens, grid = _with_words(lambda: patchify(model, latents), config, text_BLE)
    geometry = config.geometry
    if grid != (1, geometry.grid_height, geometry.grid_width):
        raise ValueError(
            f"Stream: the model makes {grid[1]} x {grid[2]} tokens (rows x columns) of a "
            f"{geometry.width} x {geometry.height} picture, the geometry expects {geometry.grid_height} x "
            f"{geometry.grid_width}; give Geometry the model's patch, {model.patch_size[1]}."
        )
    heads, head_dim = text.groups[0].kv.shape[-2:]
    rows = text.branches * text.batch
    shape = CacheShape(len(model.blocks), rows, *grid[1:], heads, head_dim, layout_of(model))
    assert tokens.shape[-1] == heads * head_dim
    frames = config.positions.capacity_frames or max(reserve_frames, config.block_frames)
    kept = cache.empty(model, shape, frames, config.dtype, device)
    return StreamState(config, 0, 0, kept, text, format=cache)


@torch.inference_mode()
def step(
    model: DiTTree,
    state: StreamState,
    *,
    attention: Attention = sdpa,
    noise: BlockNoise | None = None,
    begin: Begin | None = None,
) -> tuple[Tensor, StreamState]:
    """(clean latents [B, C, T, H, W] of the next block in config.latent_dtype, the state after it).

    One call per sigma, then one at timestep 0 that leaves the block's keys and values in the cache. begin:
    latents of the block's shape to begin with, instead of noise alone. Whatever ends it early, `state` is as
    it was and the block can be made again with the same result.
    """
    config, block, start = state.config, state.block, state.start_frame
    draft = state.cache.begin(call_of(config.positions, start, config.block_frames))
    pasts = _pasts(state.text, draft)
    shape = config.geometry.latent_shape(config.block_frames, state.text.batch)
    like = torch.empty(shape, dtype=config.latent_dtype, device=state.text.raw[0].device)
    times = _times(model, config, like.device)

    def flow(x_BCTHW: Tensor, call: int) -> Tensor:
        return _flow(model, x_BCTHW, times[call], pasts, config, attention)

    draw = noise or KeyedNoise(config.seed)
    given = None if begin is None else replace(begin, clean_BCTHW=_like(begin.clean_BCTHW, like))
    x0_BCTHW = denoise(flow, config.sigmas, draw, block, start, like, config.fresh_noise, given)
    after = _remembered(model, state, draft, pasts, x0_BCTHW, times[-1], attention)
    return x0_BCTHW, replace(after, block=block + 1)


@torch.inference_mode()
def keep(
    model: DiTTree, state: StreamState, latents_BCTHW: Tensor, *, attention: Attention = sdpa
) -> StreamState:
    """The state after latents [B, C, T, H, W] that were not made but given, any T from 1.

    One pass at timestep 0 for each block's length of them, a shorter one first, as Self-Forcing (arXiv
    2506.08009) takes its first frame in image-to-video. To be called before the first block; what leaves the
    window on the way is forgotten. An error leaves `state` as it was.
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
    latents_BCTHW, clean = _like(latents_BCTHW, like), _times(model, config, like.device)[-1]
    for piece_BCTHW in latents_BCTHW.split(pieces(count, config.block_frames), 2):
        draft = state.cache.begin(call_of(config.positions, state.start_frame, piece_BCTHW.shape[2]))
        pasts = _pasts(state.text, draft)
        state = _remembered(model, state, draft, pasts, piece_BCTHW, clean, attention)
    return state


def pieces(frames: int, block_frames: int) -> list[int]:
    """Lengths in which so many given latent frames are run: whole blocks, and what is left over first."""
    rest = frames % block_frames
    return [rest] * bool(rest) + [block_frames] * (frames // block_frames)


def take(
    model: DiTTree,
    state: StreamState,
    blocks: int,
    *,
    attention: Attention = sdpa,
    noise: BlockNoise | None = None,
) -> Iterator[tuple[Tensor, StreamState]]:
    """`step` so many times: (latents, state after them), block by block."""
    if blocks < 1:
        frames = state.config.block_frames
        raise ValueError(
            f"Stream: a take is at least 1 block ({frames} latent frames, "
            f"{frames * state.config.geometry.time_stride} pictures), got {blocks}."
        )

    def run(state: StreamState) -> Iterator[tuple[Tensor, StreamState]]:
        for _ in range(blocks):
            latents_BCTHW, state = step(model, state, attention=attention, noise=noise)
            yield latents_BCTHW, state

    return run(state)


@torch.inference_mode()
def set_text(
    model: DiTTree, state: StreamState, text_BLE: Tensor, negative_BLE: Tensor | None = None
) -> StreamState:
    """The state with another prompt for the blocks that follow; what the stream remembers stays.

    negative: with guidance and left out, the one before.
    """
    config, old = state.config, state.text
    if negative_BLE is None and config.guided:
        negative_BLE = old.raw[1]
    raw = _branches(config, text_BLE, negative_BLE)
    if text_BLE.shape[0] != old.batch or text_BLE.device != old.raw[0].device:
        raise ValueError(
            f"Stream: the text is for {text_BLE.shape[0]} streams on {text_BLE.device}, the state holds "
            f"{old.batch} on {old.raw[0].device}; encode one text a stream, on its device."
        )
    return replace(state, text=_with_words(lambda: read_text(model, raw), config, text_BLE))


def _branches(config: StreamConfig, text: Tensor, negative: Tensor | None) -> tuple[Tensor, ...]:
    if config.guided and negative is None:
        raise ValueError(
            f"Stream: cfg {config.cfg} guides away from a negative text, got none; give one (an encoded "
            f"empty prompt does), or set cfg to 1."
        )
    raw = (text, negative) if config.guided and negative is not None else (text,)
    for name, given in zip(("text", "negative text"), raw, strict=False):
        if given.ndim != 3 or 0 in given.shape or given.dtype != config.dtype:
            raise ValueError(
                f"Stream: the {name} must be [streams, tokens, text_dim] of {config.dtype} (the config's "
                f"dtype), got {list(given.shape)} of {given.dtype}; convert it with .to()."
            )
        if not given.isfinite().all():
            raise ValueError(f"Stream: the {name} holds NaN or infinite numbers; encode the prompt again.")
        if given.shape[0] != text.shape[0] or given.device != text.device:
            raise ValueError(
                f"Stream: the {name} is for {given.shape[0]} streams on {given.device}, the text for "
                f"{text.shape[0]} on {text.device}; give as many of each, on one device."
            )
    return raw


def _with_words(work: Callable[[], Made], config: StreamConfig, text_BLE: Tensor) -> Made:
    try:
        return work()
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise ValueError(
            f"Stream: the model's layers refused {config.dtype} on {text_BLE.device} with text_dim "
            f"{text_BLE.shape[-1]} and {config.geometry.latent_channels} latent channels: {error}. Give text "
            f"and StreamConfig the model's own dtype, device and sizes."
        ) from error


def _pasts(text: TextState, draft: Draft) -> list[tuple[TextRows, Past]]:
    """What the rows of each group attend to."""
    ends = [0]
    for group in text.groups:
        ends.append(ends[-1] + group.branches * text.batch)
    rows = (slice(first, last) for first, last in pairwise(ends))
    return [(group, draft.past(part)) for group, part in zip(text.groups, rows, strict=True)]


def _like(given_BCTHW: Tensor, like_BCTHW: Tensor) -> Tensor:
    """Given latents in the dtype and on the device of `like`; refused if they are not of its shape."""
    if given_BCTHW.shape != like_BCTHW.shape:
        raise ValueError(
            f"Stream: the given latents are {list(given_BCTHW.shape)}, the stream needs "
            f"{list(like_BCTHW.shape)}; encode the pictures at the stream's size."
        )
    if not given_BCTHW.isfinite().all():
        raise ValueError("Stream: the given latents hold NaN or infinite numbers; encode the pictures again.")
    return given_BCTHW.to(like_BCTHW)


def _remembered(
    model: DiTTree,
    state: StreamState,
    draft: Draft,
    pasts: list[tuple[TextRows, Past]],
    x0_BCTHW: Tensor,
    clean: Time,
    attention: Attention,
) -> StreamState:
    """The state after these clean latents, once a pass at timestep 0 has left their keys and values."""
    config, made = state.config, [x0_BCTHW]
    for group, past in pasts:
        made += remember(model, _repeated(x0_BCTHW, group, config), clean, group, past, attention)
    _refuse_nan(made, state)
    after = state.start_frame + x0_BCTHW.shape[2]
    kept = call_of(config.positions, after, config.block_frames).kept
    return replace(state, start_frame=after, cache=draft.commit(kept))


def _times(model: DiTTree, config: StreamConfig, device: torch.device) -> list[Time]:
    """Time vectors of each call, the one at timestep 0 last; one frame stands for all."""
    timesteps = torch.tensor([[1000 * sigma for sigma in (*config.sigmas, 0.0)]], dtype=torch.float64)
    modulation, head = embed_time(model, timesteps.to(device), config.dtype)
    return list(zip(modulation.split(1, 1), head.split(1, 1), strict=True))


def _repeated(x_BCTHW: Tensor, group: TextRows, config: StreamConfig) -> Tensor:
    x_BCTHW = x_BCTHW.to(config.dtype)
    return x_BCTHW if group.branches == 1 else torch.cat([x_BCTHW] * group.branches)


def _flow(
    model: DiTTree,
    x_BCTHW: Tensor,
    time: Time,
    pasts: list[tuple[TextRows, Past]],
    config: StreamConfig,
    attention: Attention,
) -> Tensor:
    flows: list[Tensor] = []
    for group, past in pasts:
        flow_RCTHW = forward(model, _repeated(x_BCTHW, group, config), time, group, past, attention)
        flows += flow_RCTHW.to(x_BCTHW.dtype).chunk(group.branches)
    if flows[0].shape != x_BCTHW.shape:
        raise ValueError(
            f"Stream: the model turned latents {list(x_BCTHW.shape)} into a flow {list(flows[0].shape)}; "
            f"it must give back as many channels as it takes: use a text-to-video model."
        )
    return guide(flows, config.cfg)


def _refuse_nan(made: list[Tensor], state: StreamState) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in made):
        first, count = state.start_frame, state.config.block_frames
        raise RuntimeError(
            f"Stream: block {state.block} (latent frames {first} to {first + count - 1}) came out with NaN "
            f"or infinite numbers in {state.config.dtype} with cache format {state.format.name}; nothing of "
            f"it was kept and the stream can go on from the block before. Try float32 or bfloat16, a cfg "
            f"nearer to 1, another seed{'' if state.format.name == 'dense' else ', or cache format dense'}."
        )
