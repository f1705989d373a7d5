"""How a stream goes over to another prompt at a block border; what each mode means is in `timeline.MODES`."""

from __future__ import annotations

from dataclasses import replace

from ..cache.format import recache_call
from .caller import Caller, Prompt
from .state import Blend, StreamState, next_prompt
from .timeline import MODES

BLEND_BLOCKS = 4


def switch(
    caller: Caller,
    state: StreamState,
    prompt: Prompt,
    mode: str,
    *,
    text: str | None = None,
    blend_blocks: int = BLEND_BLOCKS,
) -> StreamState:
    """The state under another prompt, for the blocks that follow; no model is run.

    Before the first block every mode is the same: the stream begins with the new prompt and forgets nothing.
    A recache is left to the next step, or to `step.recache`. text: the prompt as it was typed. blend_blocks:
    over which a `blend` goes from one prompt to the other.
    """
    if mode not in MODES:
        raise ValueError(f"Switch: there is no mode {mode!r}; there are {', '.join(MODES)}.")
    if blend_blocks < 1:
        raise ValueError(f"Switch: a blend takes at least 1 block, got {blend_blocks}; published are 1 to 8.")
    caller.check(prompt, state.config, len(state.tail_BCTHW))
    after = replace(state, prompt=prompt, blend=None, text=text)
    if not state.block or mode == "smooth":
        return after
    if mode == "blend":
        old = next_prompt(caller, state)
        blend = Blend(old, blend_blocks)
        caller.blend(old, prompt, blend.share)  # refused before any block depends on it
        return replace(after, blend=blend)
    return forget(after) if mode == "cut" else ask_recache(after)


def forget(state: StreamState) -> StreamState:
    """The state at the beginning of another scene: nothing is remembered, the blocks are counted on.

    A decoder begins anew, too, as `pipeline.run` has it: the first latent of a scene is one picture.
    """
    cache, memory = state.cache.retain(()), state.policy.start(state.cache.shape)
    tail_BCTHW = state.tail_BCTHW[:, :, :0]
    return replace(
        state, start_frame=0, cache=cache, memory=memory, tail_BCTHW=tail_BCTHW, must_recache=False
    )


def ask_recache(state: StreamState) -> StreamState:
    """The state with those frames alone that a recache does not run again, which it is to do next."""
    positions, block_frames = state.config.positions, state.config.block_frames
    call = recache_call(positions, state.start_frame, block_frames)
    if not call.new:
        return state
    return replace(state, cache=state.cache.retain(call.cached), must_recache=True)
