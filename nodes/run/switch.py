"""How a running stream goes over to another prompt; see `timeline.MODES`.

B batch, C channels, T latent frames, H/W of the latent grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...model_patches.cache.format import recache_call
from ...model_patches.memory.policy import visible
from ...model_patches.stream.state import Blend
from ...model_patches.stream.switch import BLEND_BLOCKS
from ...model_patches.stream.timeline import MODES
from ..host.block import BlockInMaking
from ..host.stream import HostState, HostStream

SWITCHES = tuple(MODES)


def switched(stream: HostStream, state: HostState, positive: Any, mode: str) -> HostState:
    """The state under another prompt, CONDITIONING, for the blocks that follow. The state before is spent.

    Before the first block every mode is the same: a picture that the stream begins with is remembered.
    """
    assert mode in SWITCHES
    old = _text_of(stream.positive) if state.blend is None else state.blend.text()[0]
    stream.set_text(positive, stream.negative)
    if mode == "blend" and state.block:
        return replace(state, blend=Blend((old,), (_text_of(positive),), BLEND_BLOCKS))
    state = replace(state, blend=None)
    if not state.block:
        return state
    if mode == "recache":
        return recached(stream, state)
    return forgotten(stream, state) if mode == "cut" else state


def forgotten(stream: HostStream, state: HostState) -> HostState:
    """The state at the beginning of another scene: nothing is remembered, the blocks are counted on."""
    memory, tail_BCTHW = stream.policy.start(stream.shape), state.tail_BCTHW[:, :, :0]
    return replace(state, start_frame=0, cache=state.cache.only(()), tail_BCTHW=tail_BCTHW, memory=memory)


def before_recache(stream: HostStream, state: HostState) -> HostState:
    """The state with only those frames that `recached` does not run again; it can still be recached."""
    config = stream.config
    call = recache_call(config.positions, state.start_frame, config.block_frames)
    return replace(state, cache=state.cache.only(call.kept)) if call.own else state


@torch.inference_mode()
def recached(stream: HostStream, state: HostState) -> HostState:
    """The state whose frames beside the sink are remembered as the present prompt shows them."""
    config = stream.config
    call = recache_call(config.positions, state.start_frame, config.block_frames)
    if not call.own:
        return state
    draft = state.cache.only(call.kept).begin(call)
    shown, _ = visible(stream.policy, state.memory, call)
    making = BlockInMaking(stream, draft, state.block, call.own[0], len(call.own), (shown, shown))
    latents_BCTHW = stream.model.model.process_latent_in(state.tail_BCTHW[:, :, -len(call.own) :])
    stream.sample(making, run_again, torch.zeros_like(latents_BCTHW), latents_BCTHW=latents_BCTHW)
    making.refuse_nan(latents_BCTHW, *making.kept)
    whole = draft.commit(call.kept + call.own)
    memory = stream.policy.recached(state.memory, whole, call.own)
    memory, cache = stream.leave(making, memory, whole, state.start_frame)
    return replace(state, cache=cache, memory=memory)


def _text_of(conditioning: Any) -> Tensor:
    """[B, L, E] of a prompt; refused where it is several, which have no middle."""
    if len(conditioning) != 1:
        raise ValueError(
            f"Stream Video: a blend goes from one text to another, and this prompt is {len(conditioning)} "
            f"conditionings; encode a single prompt, without Conditioning (Combine) and prompt schedules."
        )
    return conditioning[0][0]


def run_again(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    making: BlockInMaking,
    latents_BCTHW: Tensor,
) -> Tensor:
    """The host's sampler function that only remembers: keys and values of clean latents go to the draft."""
    making.remembers = True
    making.begin_call()
    x0_BCTHW = latents_BCTHW.to(x)
    model(x0_BCTHW, sigmas[-1] * x.new_ones(x.shape[0]), **(extra_args or {}))
    making.end_call()
    return x0_BCTHW
