"""Motion-aware strength: how much noise a block of an incoming video gets, by how much its pictures move.

As the released code of StreamDiffusionV2 (arXiv 2511.07399) has it: what moves fast gets less noise, so that
it is followed, and what stands still gets more, so that the prompt says what it looks like. There the first
block has the strength itself; here its pictures are looked at too: it leads those that come after.

F pixel frames, H/W pixels, three colours last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

PUBLISHED_LESS = 0.1  # of the share of noise, at full motion
FULL_CHANGE = 0.1  # from picture to picture in [0, 1], root mean square, that counts as full motion
FROM_BEFORE = 0.1  # weight of the strength of the block before


def motion_share(pictures: Sequence[Tensor]) -> float:
    """The largest change from one picture to the next, 0 for none to 1 for FULL_CHANGE and more.

    pictures: each [..., H, W, 3], uint8 in 0..255 or floating point in [0, 1]; one alone does not move.
    """
    changes = [(_unit(after) - _unit(before)).square().mean() for before, after in pairwise(pictures)]
    if not changes:
        return 0.0
    return min(1.0, float(torch.stack(changes).max().sqrt()) / FULL_CHANGE)


class MovingStrength:
    """The strength of a video's blocks, one after the other."""

    def __init__(self, strength: float, less: float = PUBLISHED_LESS) -> None:
        """strength: share of noise of blocks that stand still. less: off it at full motion."""
        self._still, self._less = strength, less
        self._newest = strength
        self._last: list[Tensor] = []  # the newest picture, once there is one

    def of_block(self, pictures: Sequence[Tensor]) -> float:
        """The share of noise of the next block, which these pictures of the video, one by one, stand for."""
        wanted = self._still - self._less * motion_share([*self._last, *pictures])
        self._newest = (1 - FROM_BEFORE) * wanted + FROM_BEFORE * self._newest
        self._last = list(pictures[-1:])
        return self._newest


def _unit(picture: Tensor) -> Tensor:
    return picture if picture.is_floating_point() else picture.float() / 255
