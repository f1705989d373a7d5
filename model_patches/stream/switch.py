"""How a stream goes over to another prompt at a block border; what each mode means is in `timeline.MODES`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..attention.positions import ids_apart, why_no_shot
from ..cache.format import recache_call
from ..sampler.denoise import match_latents
from .caller import Caller, Prompt
from .config import StreamConfig
from .state import Blend, StreamState, next_prompt
from .timeline import MODES

BLEND_BLOCKS = 4


def modes_for(config: StreamConfig) -> tuple[str, ...]:
    """The modes that a stream of this contract can do; before its first block a shot is refused besides."""
    no_shot = why_no_shot(config.positions, config.joint_frames)
    return tuple(mode for mode in MODES if mode != "shot" or no_shot is None)


def switch(
    caller: Caller,
    state: StreamState,
    prompt: Prompt,
    mode: str,
    *,
    text: str | None = None,
    blend_blocks: int = BLEND_BLOCKS,
    reference_BCTHW: Tensor | None = None,
) -> StreamState:
    """The state under another prompt, for the blocks that follow; no model is run.

    Before the first block every mode but `shot`, which is refused, is the same: the stream begins with the
    new prompt and forgets nothing. What is run again is left to the next step, or to `step.recache`. text:
    the prompt as it was typed. blend_blocks: over which a `blend` goes from one prompt to the other.
    reference: latents in the model's units, of any number of frames, that a `shot` keeps in place of the
    last shot's; of one stream, or one for each. ValueError where nothing can be kept.
    """
    if mode not in MODES:
        raise ValueError(f"Switch: there is no mode {mode!r}; there are {', '.join(MODES)}.")
    if blend_blocks < 1:
        raise ValueError(f"Switch: a blend takes at least 1 block, got {blend_blocks}; published are 1 to 8.")
    caller.check(prompt, state.config, len(state.tail_BCTHW))
    after = replace(state, prompt=prompt, blend=None, text=text)
    if mode == "shot":
        return keep_shot(after, state.tail_BCTHW if reference_BCTHW is None else reference_BCTHW)
    if not state.block or mode == "smooth":
        return after
    if mode == "blend":
        # one that was gone over to at this border is in no block: there is nothing of it to blend from
        blend = state.blend if state.steered else Blend(next_prompt(caller, state), blend_blocks)
        if blend is not None:
            caller.blend(blend.old, prompt, blend.share)  # refused before any block depends on it
        return replace(after, blend=blend)
    return forget(after) if mode == "cut" else ask_recache(after)


def forget(state: StreamState) -> StreamState:
    """The state at the beginning of another scene: nothing is remembered, the blocks are counted on.

    A decoder begins anew, too, as `pipeline.run` has it: the first latent of a scene is one picture.
    """
    cache, memory = state.cache.retain(()), state.policy.start(state.cache.shape)
    tail_BCTHW = state.tail_BCTHW[:, :, :0]
    return replace(
        state,
        start_frame=0,
        cache=cache,
        memory=memory,
        tail_BCTHW=tail_BCTHW,
        must_recache=False,
        shot=False,
        under_way_BCTHW=None,
    )


def keep_shot(state: StreamState, kept_BCTHW: Tensor) -> StreamState:
    """The state at the beginning of another shot, whose sink is the newest of these latents.

    They are run again by themselves under the prompt before its first block, and are no part of the video.
    Fewer than the sink takes are given more than once. The memory begins anew.
    """
    positions, tail_BCTHW = state.config.positions, state.tail_BCTHW
    ids_apart(positions, state.config.joint_frames)  # refuses positions that have no place for them
    count, frames = kept_BCTHW.shape[2], positions.sink_frames
    if not state.block or not count:
        before = "no block was made yet" if not state.block else "a cut has just forgotten it"
        raise ValueError(
            f"Switch: a shot keeps frames of the one before, and {before}; take the switch cut, or begin the "
            f"stream with a picture."
        )
    like = tail_BCTHW.new_empty(state.config.geometry.latent_shape(frames, len(tail_BCTHW)))
    first = kept_BCTHW[:, :, :1].expand(-1, -1, max(0, frames - count), -1, -1)
    kept_BCTHW = torch.cat([first, kept_BCTHW[:, :, -frames:]], 2).expand(len(tail_BCTHW), -1, -1, -1, -1)
    kept_BCTHW = match_latents(kept_BCTHW, like)
    return replace(
        forget(state), start_frame=frames, tail_BCTHW=kept_BCTHW.clone(), must_recache=True, shot=True
    )


def ask_recache(state: StreamState) -> StreamState:
    """The state with those frames alone that a recache does not run again, which it is to do next."""
    positions, block_frames = state.config.positions, state.config.block_frames
    call = recache_call(positions, state.start_frame, block_frames, shot=state.shot)
    if not call.new:
        return state
    return replace(state, cache=state.cache.retain(call.cached), must_recache=True)
