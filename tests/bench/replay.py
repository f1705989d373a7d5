"""Shows a stream blocks that it did not make: they become its past as its own would."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...model_patches.arch.tree import DiTTree
from ...model_patches.attention.forward import remember
from ...model_patches.attention.sdpa import Attention, sdpa
from ...model_patches.cache.format import call_of
from ...model_patches.memory.policy import visible
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import each_past, leave, repeated, times_of


@torch.inference_mode()
def replay(
    model: DiTTree, state: StreamState, clean_BCTHW: Tensor, attention: Attention = sdpa
) -> StreamState:
    """The state after a block of given clean latents: `stream.step` without its noisy calls."""
    config, start = state.config, state.start_frame
    call = call_of(config.positions, start, config.block_frames)
    draft = state.cache.begin(call)
    draft.show(visible(state.policy, state.memory, call)[1])
    (clean,) = times_of(model, (), config.dtype, clean_BCTHW.device)
    for group, past in each_past(state, draft):
        remember(model, repeated(clean_BCTHW, group, config), clean, group, past, attention)
    after = start + config.block_frames
    memory, cache = leave(state, draft.commit(call.kept + call.own), after, attention)
    return replace(state, block=state.block + 1, start_frame=after, memory=memory, cache=cache)
