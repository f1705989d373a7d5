"""Keys that hardly change from frame to frame, read as one (after TempCache, arXiv 2602.01801).

A key of a past frame joins the group of the nearest key of the frame after it, head by head, before RoPE or
as attention reads them. A group is read as its mean key, at its newest member's place, and its mean value,
with the logarithm of its size added to its score, which is exact for keys that are equal after RoPE. No code
of the paper was at hand: how many pairs join is a share here, the nearest first, so that what is attended to
is known. B batch rows, L tokens, N heads, D head width.
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

    share: float  # of the past's keys that have a frame of it after them, which join a group
    before_rope: bool

    def attended_frames(self, past: int, block: int) -> float:
        """Latent frames' worth of groups and keys that are read."""
        return past - self.share * (past - 1) + block

    def __call__(self, seen: Glance, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        """The attention's output [B, L, N, D]; the block's own keys and a memory's are read as they are."""
        frames = seen.past[::-1]
        if len(frames) < 2:
            return sdpa(q_BLND, k_BLND, v_BLND)
        past, rest = seen.tokens(frames), torch.ones(k_BLND.shape[1], dtype=torch.bool)
        rest[past] = False
        keys_BLND = k_BLND[:, past]
        if self.before_rope:
            keys_BLND = seen.turned(keys_BLND, frames, back=True)
        keys, values = keys_BLND.transpose(1, 2), v_BLND[:, past].transpose(1, 2)
        group_BNL = groups(keys, seen.frame_tokens, self.share)
        size = summed(torch.ones_like(keys[..., :1]), group_BNL)
        keys, values = (summed(x, group_BNL) / size.clamp(min=1) for x in (keys, values))
        if self.before_rope:
            keys = seen.turned(keys.transpose(1, 2), frames).transpose(1, 2)
        q, k, v = (x.transpose(1, 2) for x in (q_BLND, k_BLND[:, rest], v_BLND[:, rest]))
        bias_BNL = torch.cat([size.log()[..., 0], k.new_zeros(k.shape[:3])], 2)
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        return scaled_dot_product_attention(q, keys, values, bias_BNL[:, :, None]).transpose(1, 2)


def groups(k_BNLD: Tensor, frame_tokens: int, share: float) -> Tensor:
    """Which group each key is in, by the place of its first: int64 [B, N, L].

    k: frame after frame. Of those behind the first frame, this share joins the group of a key of the frame
    before: those that are nearest to one.
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
    """The sum of each group's tokens, in the place of its first; 0 in all others."""
    return torch.zeros_like(x_BNLD).scatter_add_(2, group_BNL[..., None].expand_as(x_BNLD), x_BNLD)
