"""How a stream goes over to another prompt at a block border; what each mode means is in `timeline.MODES`.

B batch, C channels, T latent frames, L text tokens, E text_dim.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..arch.tree import DiTTree
from ..attention.forward import remember
from ..attention.sdpa import Attention, sdpa
from ..cache.format import recache_call
from ..memory.policy import visible
from .state import Blend, StreamState
from .step import each_past, leave, refuse_nan, repeated, set_text, times_of
from .timeline import MODES

BLEND_BLOCKS = 4


def switch(
    model: DiTTree,
    state: StreamState,
    text_BLE: Tensor,
    mode: str,
    negative_BLE: Tensor | None = None,
    *,
    blend_blocks: int = BLEND_BLOCKS,
    attention: Attention = sdpa,
) -> StreamState:
    """The state under another prompt, for the blocks that follow. The state before is spent by a recache.

    Before the first block every mode is the same: the stream begins with the new text. negative: left out,
    the one before. blend_blocks: over which a `blend` goes from one text to the other.
    """
    if mode not in MODES:
        raise ValueError(f"Switch: there is no mode {mode!r}; there are {', '.join(MODES)}.")
    if blend_blocks < 1:
        raise ValueError(f"Switch: a blend takes at least 1 block, got {blend_blocks}; published are 1 to 8.")
    old = state.text.raw if state.blend is None else state.blend.text()
    after = set_text(model, state, text_BLE, negative_BLE)
    if not state.block or mode == "smooth":
        return after
    if mode == "blend":
        return replace(state, blend=Blend(old, after.text.raw, blend_blocks))
    return forgotten(after) if mode == "cut" else recached(model, after, attention)


def forgotten(state: StreamState) -> StreamState:
    """The state at the beginning of another scene: nothing is remembered, the blocks are counted on.

    A decoder begins anew, too: the first latent of a scene is one picture.
    """
    cache, memory = state.cache.only(()), state.policy.start(state.cache.shape)
    return replace(state, start_frame=0, cache=cache, memory=memory, tail_BCTHW=None)


@torch.inference_mode()
def recached(model: DiTTree, state: StreamState, attention: Attention = sdpa) -> StreamState:
    """The state whose frames beside the sink are remembered as the present text shows them.

    They run once more at timestep 0 as one long block; the sink stays as it is. The memory begins anew with
    these frames and is not shown to them; where ids count on it goes on, and they see what the newest block
    began with (Echo-Infinity, its released code: `memory_recache`, `relative_rope`).
    """
    config = state.config
    call = recache_call(config.positions, state.start_frame, config.block_frames)
    if not call.own:
        return state
    assert state.tail_BCTHW is not None
    draft = state.cache.only(call.kept).begin(call)
    draft.show(visible(state.policy, state.memory, call)[0])
    latents_BCTHW = state.tail_BCTHW[:, :, -len(call.own) :]
    (clean,) = times_of(model, (), config.dtype, latents_BCTHW.device)
    made: list[Tensor] = []
    for group, past in each_past(state, draft):
        made += remember(model, repeated(latents_BCTHW, group, config), clean, group, past, attention)
    refuse_nan(made, state)
    whole = draft.commit(call.kept + call.own)
    again = replace(state, memory=state.policy.recached(state.memory, whole, call.own, attention))
    memory, cache = leave(again, whole, state.start_frame, attention)
    return replace(state, cache=cache, memory=memory)
