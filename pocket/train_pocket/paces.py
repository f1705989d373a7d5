"""Clips whose objects go at another pace in some blocks, so that a past's speed doesn't decide the next one.

A stream's block keeps the speed of its past, so that what was lost, at a turn say, is never found again. Here
a block of the world's own speed, which alone is graded, comes behind blocks of any pace.

B clips, N blocks, F pixel frames, T latent frames, O objects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...model_patches.vae.wan import TIME_STRIDE

# of blocks that do not go at the world's speed: streams slow down more than they speed up
PACES = (0.3, 1.15)


def draw_paces(count: int, blocks: int, share: float, generator: torch.Generator) -> Tensor:
    """Pace of each block [B, N], 1 for the world's own speed; share: of blocks that have another."""
    low, high = PACES
    other_BN = low + (high - low) * torch.rand(count, blocks, generator=generator)
    return torch.where(torch.rand(count, blocks, generator=generator) < share, other_BN, 1.0)


def frames_needed(frames: int) -> int:
    """Frames of a flight at the world's speed that `at_paces` needs to give so many."""
    return 1 + int((frames - 1) * max(1.0, PACES[1])) + 1


def at_paces(places_BFO2: Tensor, pace_BN: Tensor, block_frames: int) -> Tensor:
    """A flight with a pace for each block: places [B, F, O, 2], from `frames_needed` at the world's speed.

    Between two of its frames a place is read off the line between them.
    """
    pace_BT = pace_BN.repeat_interleave(block_frames, 1)
    steps_BF = torch.cat([torch.zeros(len(pace_BN), 1), pace_BT[:, 1:].repeat_interleave(TIME_STRIDE, 1)], 1)
    time_BF = steps_BF.double().cumsum(1)
    before_BF = time_BF.floor().clamp(max=places_BFO2.shape[1] - 2)
    share_BF11 = (time_BF - before_BF).to(places_BFO2.dtype)[:, :, None, None]
    rows_B1, index_BF = torch.arange(len(pace_BN))[:, None], before_BF.long()
    return torch.lerp(places_BFO2[rows_B1, index_BF], places_BFO2[rows_B1, index_BF + 1], share_BF11)
