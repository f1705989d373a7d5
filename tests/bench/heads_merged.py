"""Keys that hardly change from frame to frame, read as one (after TempCache, arXiv 2602.01801).

A key of a past frame joins the group of the nearest key of the frame before it, head by head, as attention
reads them, after RoPE. A group is read as its mean key and mean value, with the logarithm of its size added
to its score, which is exact for equal keys. No code of the paper was at hand: how many pairs join is a share
here, the nearest first, so that what is attended to is known. B batch rows, L tokens, N heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...model_patches.attention.sdpa import sdpa
from .heads_seen import Glance


@dataclass(frozen=True)
class Merged:
    """Attention that reads groups of the past's keys; see `heads_seen.Attend`."""

    share: float  # of the past's keys that have a frame before them, which join a group

    def attended_frames(self, past: int, block: int) -> float:
        """Latent frames' worth of groups and keys that are read."""
        return past - self.share * (past - 1) + block

    def __call__(self, seen: Glance, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        """The attention's output [B, L, N, D]; the block's own keys and a memory's are read as they are."""
        past = seen.tokens(seen.past)
        if len(seen.past) < 2:
            return sdpa(q_BLND, k_BLND, v_BLND)
        rest = torch.ones(k_BLND.shape[1], dtype=torch.bool)
        rest[past] = False
        q, k, v = (x.transpose(1, 2) for x in (q_BLND, k_BLND, v_BLND))  # [B, N, L, D]
        group_BNL = groups(k[:, :, past], seen.frame_tokens, self.share)
        keys, values, size_BNL = (
            summed(x, group_BNL) for x in (k[:, :, past], v[:, :, past], torch.ones_like(k[:, :, past, :1]))
        )
        count = size_BNL.clamp(min=1)
        keys, values = (
            torch.cat([keys / count, k[:, :, rest]], 2),
            torch.cat([values / count, v[:, :, rest]], 2),
        )
        bias = torch.cat([size_BNL.log()[..., 0], k.new_zeros(*k.shape[:2], int(rest.sum()))], 2)
        return scaled_dot_product_attention(q, keys, values, bias[:, :, None]).transpose(1, 2)


def groups(k_BNLD: Tensor, frame_tokens: int, share: float) -> Tensor:
    """Which group each key is in, by the place of its oldest: int64 [B, N, L].

    k: rotated keys, frame after frame. Of those behind the first frame, this share joins the group of a key
    of the frame before: those that are nearest to one.
    """
    frames = k_BNLD.unflatten(2, (-1, frame_tokens)).unbind(2)
    near = [torch.cdist(later, earlier).min(-1) for earlier, later in pairwise(frames)]
    away_BNL = torch.cat([each.values for each in near], 2)
    joins_BNL = torch.zeros_like(away_BNL, dtype=torch.bool)
    count = round(share * away_BNL.shape[2])
    joins_BNL.scatter_(2, away_BNL.topk(count, largest=False).indices, True)
    place = torch.arange(k_BNLD.shape[2]).expand(k_BNLD.shape[:3])
    found = [place[:, :, :frame_tokens]]
    for index, (each, joins) in enumerate(zip(near, joins_BNL.split(frame_tokens, 2), strict=True), 1):
        own = place[:, :, index * frame_tokens : (index + 1) * frame_tokens]
        found.append(torch.where(joins, found[-1].gather(2, each.indices), own))
    return torch.cat(found, 2)


def summed(x_BNLD: Tensor, group_BNL: Tensor) -> Tensor:
    """The sum of each group's tokens, in the place of its oldest; 0 in all others."""
    return torch.zeros_like(x_BNLD).scatter_add_(2, group_BNL[..., None].expand_as(x_BNLD), x_BNLD)
