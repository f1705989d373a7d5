"""A stream of latents: `init` makes its state, `step` takes one and returns the next with a block of latents.

B batch, C channels, T latent frames, H/W of the latent grid, L text tokens, E text_dim, R batch rows. One
model serves any number of streams. What comes out are inference tensors: to train on them, clone them outside
inference mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from ..arch.parts import embed_time, patchify
from ..arch.tree import DiTTree
from ..attention.forward import Time, forward, remember
from ..attention.past import Past
from ..attention.rope import layout_of
from ..attention.sdpa import Attention, sdpa
from ..attention.text import TextRows, TextState, read_text
from ..cache.dense import DENSE
from ..cache.format import Cache, CacheFormat, CacheShape, Call, Draft, call_of
from ..memory.policy import OFF, Memory, MemoryPolicy, evict, room, visible
from ..sampler.denoise import Begin, denoise, given_like, guide
from ..sampler.noise import BlockNoise, KeyedNoise
from .snapshot import load, save
from .state import StreamConfig, StreamState

Made = TypeVar("Made")

__all__ = ["StreamConfig", "StreamState", "init", "load", "save", "set_text", "step", "take"]


@torch.inference_mode()
def init(
    model: DiTTree,
    text_BLE: Tensor,
    config: StreamConfig,
    negative_BLE: Tensor | None = None,
    *,
    reserve_frames: int = 0,
    cache: CacheFormat = DENSE,
    memory: MemoryPolicy = OFF,
) -> StreamState:
    """The state before the first block, on the text's device, which must be the model's.

    negative: needed if config.cfg is not 1, else left out. reserve_frames: latent frames to make room for at
    once where the window has no end; such a cache doubles whenever it is full. cache: how frames are kept.
    memory: what is remembered of those that left the window, an encoder in config.dtype on the device.
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
    shape = room(memory, shape, config.positions, cache.cost)
    frames = config.positions.capacity_frames or max(reserve_frames, config.block_frames)
    kept = cache.empty(model, shape, frames, config.dtype, device)
    begun = memory.start(shape)
    return StreamState(config, 0, 0, kept, text, format=cache, memory=begun, policy=memory)


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
    state = _blended(model, state)
    config, block, start = state.config, state.block, state.start_frame
    call = call_of(config.positions, start, config.block_frames)
    draft = state.cache.begin(call)
    at_first, later = visible(state.policy, state.memory, call)
    pasts = each_past(state, draft)
    shape = config.geometry.latent_shape(config.block_frames, state.text.batch)
    like = torch.empty(shape, dtype=config.latent_dtype, device=state.text.raw[0].device)
    levels = config.levels(start, begin is not None)
    times, first = times_of(model, levels, config.dtype, like.device), 0 if begin is None else begin.call

    def flow(x_BCTHW: Tensor, index: int) -> Tensor:
        draft.show(later if index > first else at_first)
        return _flow(model, x_BCTHW, times[index], pasts, config, attention)

    draw = noise or KeyedNoise(config.seed)
    given = None if begin is None else Begin(given_like(begin.clean_BCTHW, like), first)
    x0_BCTHW = denoise(flow, levels, draw, block, start, like, config.fresh_noise, given)
    draft.show(later)
    after = remembered(model, state, draft, call, pasts, x0_BCTHW, times[-1], attention)
    return x0_BCTHW, replace(after, block=block + 1, blend=state.blend and state.blend.next())


def remembered(
    model: DiTTree,
    state: StreamState,
    draft: Draft,
    call: Call,
    pasts: list[tuple[TextRows, Past]],
    x0_BCTHW: Tensor,
    clean: Time,
    attention: Attention,
) -> StreamState:
    """The state after the draft's clean latents, once a pass at timestep 0 has left their keys and values.

    clean: time vectors of timestep 0. Blocks are not counted: the latents need not be made ones.
    """
    config, made = state.config, [x0_BCTHW]
    for group, past in pasts:
        made += remember(model, repeated(x0_BCTHW, group, config), clean, group, past, attention)
    refuse_nan(made, state)
    after = state.start_frame + x0_BCTHW.shape[2]
    memory, cache = leave(state, draft.commit(call.kept + call.own), after, attention)
    newest = [x0_BCTHW] if state.tail_BCTHW is None else [state.tail_BCTHW, x0_BCTHW]
    tail_BCTHW = torch.cat(newest, 2)[:, :, -config.tail_frames :].clone()
    return replace(state, start_frame=after, cache=cache, memory=memory, tail_BCTHW=tail_BCTHW)


def leave(state: StreamState, whole: Cache, start_frame: int, attention: Attention) -> tuple[Memory, Cache]:
    """(memory, cache) before the block at `start_frame`: other frames are taken in and dropped."""
    kept = call_of(state.config.positions, start_frame, state.config.block_frames).kept
    memory, cache = evict(state.policy, state.memory, whole, kept, attention)
    refuse_nan(list(memory.tensors().values()), state)
    return memory, cache


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
    text = _with_words(lambda: read_text(model, raw), config, text_BLE)
    return replace(state, text=text, blend=None)


def _blended(model: DiTTree, state: StreamState) -> StreamState:
    """The state with the text of its next block, where one text turns into another."""
    if state.blend is None:
        return state
    raw = state.blend.text()
    return replace(state, text=_with_words(lambda: read_text(model, raw), state.config, raw[0]))


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


def each_past(state: StreamState, draft: Draft) -> list[tuple[TextRows, Past]]:
    """Each group of branches that run together, and what it attends to."""
    rows = _rows(state.text)
    return [(group, draft.past(part)) for group, part in zip(state.text.groups, rows, strict=True)]


def _rows(text: TextState) -> list[slice]:
    ends = [0]
    for group in text.groups:
        ends.append(ends[-1] + group.branches * text.batch)
    return [slice(first, last) for first, last in pairwise(ends)]


def times_of(model: DiTTree, sigmas: Sequence[float], dtype: torch.dtype, device: torch.device) -> list[Time]:
    """Time vectors of a call at each level, the one at timestep 0 last; one frame stands for all.

    That one is found by itself, so that it has the same bits whatever the calls before it are.
    """
    times: list[Time] = []
    for levels in filter(None, (tuple(sigmas), (0.0,))):
        timesteps = torch.tensor([[1000 * sigma for sigma in levels]], dtype=torch.float64)
        modulation, head = embed_time(model, timesteps.to(device), dtype)
        times += zip(modulation.split(1, 1), head.split(1, 1), strict=True)
    return times


def repeated(x_BCTHW: Tensor, group: TextRows, config: StreamConfig) -> Tensor:
    """The latents in the model's dtype, once for each branch of the group."""
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
        flow_RCTHW = forward(model, repeated(x_BCTHW, group, config), time, group, past, attention)
        flows += flow_RCTHW.to(x_BCTHW.dtype).chunk(group.branches)
    if flows[0].shape != x_BCTHW.shape:
        raise ValueError(
            f"Stream: the model turned latents {list(x_BCTHW.shape)} into a flow {list(flows[0].shape)}; "
            f"it must give back as many channels as it takes: use a text-to-video model."
        )
    return guide(flows, config.cfg)


def refuse_nan(made: list[Tensor], state: StreamState) -> None:
    """Raises RuntimeError if the state's next block came out with numbers that would spoil all later ones."""
    if not all(bool(tensor.isfinite().all()) for tensor in made):
        first, count = state.start_frame, state.config.block_frames
        raise RuntimeError(
            f"Stream: block {state.block} (latent frames {first} to {first + count - 1}) came out with NaN "
            f"or infinite numbers in {state.config.dtype} with cache format {state.format.name}; nothing of "
            f"it was kept and the stream can go on from the block before. Try float32 or bfloat16, a cfg "
            f"nearer to 1, another seed{'' if state.format.name == 'dense' else ', or cache format dense'}."
        )
