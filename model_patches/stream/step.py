"""The transitions of a stream: each takes a state and returns the next, through whoever calls the model.

B batch, C channels, T latent frames, H/W of the latent grid. What comes out are inference tensors: to train
on them, clone them outside inference mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from ..cache.dense import DENSE
from ..cache.format import Cache, CacheFormat, Call, Draft, call_of, recache_call
from ..cache.shapes import CacheShape, MemorySeen
from ..memory.policy import OFF, Memory, MemoryKeysValues, MemoryPolicy, add_memory_tokens, evict, read_memory
from ..reason import dtype_name
from ..sampler.denoise import InitLatents, match_latents, refuse_nan_latents
from ..sampler.noise import BlockNoise, KeyedNoise
from .caller import Caller, Pass, Prompt, Result
from .config import StreamConfig
from .rolling import joint_of
from .state import StreamState, next_prompt


@torch.inference_mode()
def init(
    caller: Caller,
    prompt: Prompt,
    config: StreamConfig,
    *,
    reserve_frames: int = 0,
    cache: CacheFormat = DENSE,
    memory: MemoryPolicy = OFF,
) -> StreamState:
    """The state before the first block; its cache is allocated at once.

    prompt: what the caller makes of a text. reserve_frames: latent frames to make room for where the window
    has no end; such a cache doubles whenever it is full. cache: how frames are kept. memory: what is
    remembered of those that left the window, an encoder in config.dtype on the caller's device.
    """
    shape = caller.shape(prompt, config)
    shape = add_memory_tokens(memory, shape, config.positions, config.block_frames, cache.cost)
    frames = config.positions.capacity_frames or max(reserve_frames, config.block_frames)
    reserve(caller, cache, shape, frames, config.dtype)
    empty = cache.empty(caller.tree, shape, frames, config.dtype, caller.device)
    tail = config.geometry.latent_shape(0, caller.batch(prompt, config))
    tail_BCTHW = torch.empty(tail, dtype=config.latent_dtype, device=caller.device)
    return StreamState(config, cache, memory, 0, 0, empty, memory.start(shape), prompt, tail_BCTHW)


def reserve(caller: Caller, cache: CacheFormat, shape: CacheShape, frames: int, dtype: torch.dtype) -> None:
    """Has the caller make room for a cache of so many latent frames; refuses a model it is not for."""
    if refusal := cache.why_not(caller.tree):
        raise ValueError(refusal)
    cost = cache.cost
    caller.reserve(cost.allocated_bytes(shape, frames, dtype) + cost.workspace_bytes(shape, frames, dtype))


def bring_back(caller: Caller, state: StreamState) -> StreamState:
    """The state on the caller's device; where its cache was moved away, room is made for it first."""
    cache, config = state.cache, state.config
    if cache.device != caller.device:
        reserve(caller, state.format, cache.shape, len(cache.table), config.dtype)
    return state.to(caller.device)


@torch.inference_mode()
def step(
    caller: Caller, state: StreamState, *, noise: BlockNoise | None = None, begin: InitLatents | None = None
) -> tuple[Tensor, StreamState]:
    """(clean latents [B, C, T, H, W] of the next block in the model's units, the state after it).

    One call of the model per noise level, then one at timestep 0 that leaves the block's keys and values in
    the cache. Where blocks are denoised together it is one call over all of them, and a scene's first block
    takes one a level. begin: latents of the block's shape to begin with, instead of noise alone. noise: None:
    the config's; a `KeyedNoise` that is given for block after block draws the next one's first noise while a
    card makes this one. Whatever ends it early, `state` is as it was and the block can be made again with the
    same result.
    """
    state = recache(caller, bring_back(caller, state))
    config = state.config
    call, draft, memory = _open(state, _call_of(state, config.block_frames))
    shape = config.geometry.latent_shape(config.block_frames, len(state.tail_BCTHW))
    like = torch.empty(shape, dtype=config.latent_dtype, device=caller.device)
    levels = config.levels(state.start_frame, begin is not None)
    if begin is not None:
        begin = replace(begin, clean_BCTHW=match_latents(begin.clean_BCTHW, like))
        levels = begin.levels(levels)
    source = noise or KeyedNoise(config.seed)
    joint = joint_of(state, config, call, draft, begin)
    work = Pass(
        state.block, state.start_frame, state.format, draft, memory, shape, levels, source, begin, joint=joint
    )
    result = caller.run(work, next_prompt(caller, state), config)
    if isinstance(noise, KeyedNoise):
        newest = state.block + (len(levels) if config.rolling else 1)
        noise.draw_ahead(newest, 0 if begin is None else begin.call, like)
    after = _commit(caller, state, call, draft, result, begin)
    return result.latents_BCTHW, replace(
        after, block=state.block + 1, blend=state.blend and state.blend.next()
    )


@torch.inference_mode()
def prefill(caller: Caller, state: StreamState, latents_BCTHW: Tensor) -> StreamState:
    """The state after latents [B, C, T, H, W] that are there already, in the model's units, any T from 1.

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
    shape = config.geometry.latent_shape(count, len(state.tail_BCTHW))
    like = torch.empty(shape, dtype=config.latent_dtype, device=caller.device)
    refuse_nan_latents(latents_BCTHW)
    for piece_BCTHW in match_latents(latents_BCTHW, like).split(
        prefill_lengths(count, config.block_frames), 2
    ):
        state = extend(caller, state, piece_BCTHW)
    return state


@torch.inference_mode()
def extend(caller: Caller, state: StreamState, latents_BCTHW: Tensor) -> StreamState:
    """The state after at most a block's latents that were not made by it: `step` without its noisy calls.

    They are in the stream's size, dtype and device. Blocks are not counted.
    """
    state = recache(caller, bring_back(caller, state))
    call, draft, (_, memory) = _open(state, _call_of(state, latents_BCTHW.shape[2]))
    result = _remember(caller, state, draft, state.start_frame, memory, latents_BCTHW)
    return _commit(caller, state, call, draft, result)


def prefill_lengths(frames: int, block_frames: int) -> list[int]:
    """Lengths in which so many given latent frames are run: whole blocks, and what is left over first."""
    rest = frames % block_frames
    return [rest] * bool(rest) + [block_frames] * (frames // block_frames)


@torch.inference_mode()
def recache(caller: Caller, state: StreamState) -> StreamState:
    """The state whose frames beside the sink are remembered as the present prompt shows them.

    The state as it is where no switch asked for that. They run once more at timestep 0 as one long block; the
    sink stays as it is: what leaves the window left it before, and a sink that takes such frames in has them.
    The memory begins anew with these frames and is not shown to them; where ids count on it goes on, and they
    see what the newest block began with (Echo-Infinity, its released code: `memory_recache`,
    `relative_rope`).
    """
    if not state.must_recache:
        return state
    state = bring_back(caller, state)
    config = state.config
    call, draft, (memory, _) = _open(
        state, recache_call(config.positions, state.start_frame, config.block_frames, shot=state.shot)
    )
    newest_BCTHW = state.tail_BCTHW[:, :, -len(call.new) :]
    result = _remember(caller, state, draft, call.new[0], memory, newest_BCTHW)
    whole = draft.commit(call.cached + call.new)
    opens = state.shot and not call.cached  # what a shot keeps does not leave: no memory is to read it
    renewed = (
        state.memory if opens else state.policy.recached(state.memory, whole, call.new, caller.attention)
    )
    after = _evict(caller, replace(state, memory=renewed), whole)
    refuse_nan(result, after.memory, state)
    # unfolded: a fold that the next block writes would spend `state`, which a step may begin again from
    return replace(after, cache=whole.retain(after.cache.frames), must_recache=False)


def rollout(
    caller: Caller, state: StreamState, blocks: int, *, noise: BlockNoise | None = None
) -> Iterator[tuple[Tensor, StreamState]]:
    """`step` so many times: (latents, state after them), block by block."""
    if blocks < 1:
        frames = state.config.block_frames
        raise ValueError(
            f"Stream: a rollout is at least 1 block ({frames} latent frames, "
            f"{frames * state.config.geometry.time_stride} pictures), got {blocks}."
        )

    source = noise or KeyedNoise(state.config.seed)

    def run(state: StreamState) -> Iterator[tuple[Tensor, StreamState]]:
        for _ in range(blocks):
            latents_BCTHW, state = step(caller, state, noise=source)
            yield latents_BCTHW, state

    return run(state)


def _call_of(state: StreamState, block_frames: int) -> Call:
    """The call of the state's next block, of so many latent frames."""
    return call_of(state.config.positions, state.start_frame, block_frames, shot=state.shot)


def _open(state: StreamState, call: Call) -> tuple[Call, Draft, MemoryKeysValues]:
    """The call, a draft for its own frames, and what it sees of the memory."""
    return call, state.cache.begin(call), read_memory(state.policy, state.memory, call)


def _remember(
    caller: Caller,
    state: StreamState,
    draft: Draft,
    start_frame: int,
    memory: MemorySeen | None,
    latents_BCTHW: Tensor,
) -> Result:
    """Runs latents that are there at timestep 0: their keys and values go to the draft."""
    shape = state.config.geometry.latent_shape(latents_BCTHW.shape[2], len(latents_BCTHW))
    work = Pass(
        state.block, start_frame, state.format, draft, (memory, memory), shape, clean_BCTHW=latents_BCTHW
    )
    return caller.run(work, next_prompt(caller, state), state.config)


def _commit(
    caller: Caller,
    state: StreamState,
    call: Call,
    draft: Draft,
    result: Result,
    begin: InitLatents | None = None,
) -> StreamState:
    """The state with the draft's frames in it, less what leaves the window; blocks are not counted."""
    whole = draft.commit(call.cached + call.new)
    tail_BCTHW = torch.cat([state.tail_BCTHW, result.latents_BCTHW], 2)[:, :, -state.config.kept_frames :]
    after = replace(
        state, start_frame=state.start_frame + result.latents_BCTHW.shape[2], tail_BCTHW=tail_BCTHW.clone(),
        under_way_BCTHW=result.under_way_BCTHW,
    )  # fmt: skip
    after = _evict(caller, after, whole)
    refuse_nan(result, after.memory, state, begin)
    return after


def _evict(caller: Caller, state: StreamState, whole: Cache) -> StreamState:
    """The state before its next block: frames that block does not attend to go to the memory and are
    dropped.
    """
    kept = _call_of(state, state.config.block_frames).cached
    memory, cache = evict(state.policy, state.memory, whole, kept, caller.attention)
    return replace(state, memory=memory, cache=cache)


def refuse_nan(result: Result, memory: Memory, state: StreamState, begin: InitLatents | None = None) -> None:
    """Raises RuntimeError if a pass came out with numbers that would spoil all later blocks.

    The host waits for the device once; more only to tell what is spoilt. ValueError where `begin` is.
    """
    last, remembered = result.last_keys_values, memory.tensors().values()
    under_way = [] if result.under_way_BCTHW is None else [result.under_way_BCTHW]
    if _are_finite((result.latents_BCTHW, *under_way, *last, *remembered)):
        return
    if begin is not None:
        refuse_nan_latents(begin.clean_BCTHW)
    parts = {"latents": (result.latents_BCTHW, *under_way), "keys": last[::2], "values": last[1::2]}
    parts |= {"memory": tuple(remembered)}
    spoilt = [name for name, tensors in parts.items() if not _are_finite(tensors)]
    first, count = state.start_frame, state.config.block_frames
    raise RuntimeError(
        f"Stream: block {state.block} (latent frames {first} to {first + count - 1}) came out with NaN "
        f"or infinite numbers in {dtype_name(state.config.dtype)} with cache format {state.format.name}, in "
        f"its {' and '.join(spoilt)}; nothing of it was kept and the stream can go on from the block before. "
        f"Try float32 or bfloat16 (ComfyUI: --force-fp32, --bf16-unet), a cfg nearer to 1, another seed"
        f"{'' if state.format.name == 'dense' else ', or cache format dense'}."
    )


def _are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all their numbers are; each device is waited for once, and holds no copy of them."""
    ends = [end for tensor in tensors if tensor.numel() for end in tensor.aminmax()]
    by_device = groupby(sorted(ends, key=lambda end: str(end.device)), lambda end: end.device)
    return all(bool(torch.stack(list(each)).isfinite().all()) for _, each in by_device)
