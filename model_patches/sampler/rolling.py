"""Blocks that are denoised together, each one noise level further than the next (Rolling Forcing, arXiv
2509.25161).

B batch, C channels, T latent frames of one or more blocks, H/W of the latent grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..transfer import to_device
from .noise import BlockNoise

BLOCK, ROLLING = SAMPLERS = "block", "rolling"  # a block by itself; several together

# (noisy latents of consecutive blocks, index of the noise level of each) -> clean latents, same shape
JointClean = Callable[[Tensor, tuple[int, ...]], Tensor]


def roll(
    clean: JointClean,
    under_way_BCTHW: Tensor | None,
    sigmas: Sequence[float],
    noise: BlockNoise,
    block: int,
    start_frame: int,
    like_BCTHW: Tensor,
) -> Tensor:
    """Clean latents of the block and, behind it, estimates of those that are under way: one block a level.

    One call, in which the block goes through the last level, the newest one through the first; at a scene's
    start, where nothing is under way, calls over one block, over two, and so on come first. under_way: what
    was behind the block before. like: of one block, in whose dtype all arithmetic is.
    """
    estimate_BCTHW = under_way_BCTHW
    count = 0 if under_way_BCTHW is None else under_way_BCTHW.shape[2] // like_BCTHW.shape[2]
    while count < len(sigmas):
        count += 1
        x_BCTHW = joint_input(estimate_BCTHW, count, sigmas, noise, block, start_frame, like_BCTHW)
        estimate_BCTHW = clean(x_BCTHW, levels_of(count))
    assert estimate_BCTHW is not None
    return estimate_BCTHW


def levels_of(blocks: int) -> tuple[int, ...]:
    """Index of the noise level of each of so many blocks, the oldest first: the newest is at the highest."""
    return tuple(reversed(range(blocks)))


def joint_input(
    estimate_BCTHW: Tensor | None,
    blocks: int,
    sigmas: Sequence[float],
    noise: BlockNoise,
    block: int,
    start_frame: int,
    like_BCTHW: Tensor,
) -> Tensor:
    """Input of a call over so many blocks from this one on, each at its level; of the last it is noise alone.

    A block's noise depends on its number and level alone, so that it does not matter where a stream stopped.
    """
    parts, frames = [], like_BCTHW.shape[2]
    for index, level in enumerate(levels_of(blocks)):
        first = index * frames
        part_BCTHW = sigmas[level] * noise.draw(block + index, level, start_frame + first, like_BCTHW)
        if estimate_BCTHW is not None and level:
            part_BCTHW = part_BCTHW + (1 - sigmas[level]) * estimate_BCTHW[:, :, first : first + frames]
        parts.append(part_BCTHW)
    return torch.cat(parts, 2)


def by_frame(levels: Sequence[float], calls: Sequence[int], like_BCTHW: Tensor) -> Tensor:
    """The levels [T, 1, 1] of a joint call's frames, in the dtype and on the device of its latents."""
    each = like_BCTHW.shape[2] // len(calls)
    of_frames = torch.tensor([levels[call] for call in calls for _ in range(each)], dtype=torch.float64)
    return to_device(of_frames[:, None, None], like_BCTHW.device, like_BCTHW.dtype)
