"""A stream whose blocks are denoised together: what a step asks of its caller, and what both callers share.

B batch, C channels, T latent frames, H/W of the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..attention.forward import Time
from ..attention.past import Past
from ..cache.chosen import ChosenPast
from ..cache.format import Cache, Call, Draft, joint_call
from ..sampler.denoise import InitLatents
from .caller import Joint
from .config import StreamConfig
from .state import StreamState


def joint_of(
    state: StreamState, config: StreamConfig, call: Call, draft: Draft, begin: InitLatents | None
) -> Joint | None:
    """The blocks that are denoised together with the state's next one; None where it is made by itself.

    They read the cache as it is, and leave nothing in it. ValueError for a block that is to begin with given
    latents: the blocks behind it are under way before it is done.
    """
    if not config.rolling:
        return None
    if begin is not None:
        refuse_following(config)
    under_way = state.under_way_BCTHW
    if under_way is not None and under_way.shape[2] != config.frames_under_way:
        raise ValueError(
            f"Stream: {under_way.shape[2]} latent frames are under way, and {len(config.sigmas)} noise "
            f"levels want {config.frames_under_way}; keep as many levels as the take was begun with."
        )
    return Joint(under_way, partial(_past, draft.commit(call.cached), state))


def refuse_following(config: StreamConfig) -> None:
    """ValueError where blocks cannot begin with those of another video."""
    if config.rolling:
        raise ValueError(
            f"Stream: every block is to begin with a video's, and this checkpoint has {len(config.sigmas)} "
            f"blocks under way at a time; take a checkpoint that makes one after the other, or have the "
            f"stream go on at the video's end."
        )


def _past(cache: Cache, state: StreamState, frames: int, rows: slice) -> Past:
    config = state.config
    call = joint_call(config.positions, state.start_frame, frames, shot=state.shot)
    return ChosenPast(cache, call, config.dtype, rows)


def times_by_frame(times: Sequence[Time], calls: Sequence[int], frames: int) -> Time:
    """Time vectors of a call whose blocks are at these levels; times: one of each level, for any frame."""
    each = frames // len(calls)
    modulation, head = (
        torch.cat([times[call][part].repeat_interleave(each, 1) for call in calls], 1) for part in (0, 1)
    )
    return modulation, head


def apart(joint_BCTHW: Tensor, block_frames: int) -> tuple[Tensor, Tensor]:
    """(the block that is done, a copy of the estimates of those behind it)."""
    return joint_BCTHW[:, :, :block_frames].contiguous(), joint_BCTHW[:, :, block_frames:].clone()
