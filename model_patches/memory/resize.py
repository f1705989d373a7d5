"""The memory's initial state on another grid: what was learned at one picture size, for a stream of another.

The state's tokens lie as frames of rows of columns, as the tokens of latent frames do. M tokens, C channels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .encoder import MemoryEncoder

Grid = tuple[int, int, int]  # frames, rows, columns


def resampled(state_1MC: Tensor, have: Grid, want: Grid) -> Tensor:
    """The state [1, M, C] of grid `have` on grid `want`, the very same tensor where the two are equal.

    Along each axis cells lie side by side and fill the same length. More cells take linearly between the
    nearest two; fewer take a mean of all they cover (a triangle as wide as two new cells). In float64.
    """
    if state_1MC.ndim != 3 or state_1MC.shape[1] != math.prod(have) or min(*have, *want) < 1:
        raise ValueError(
            f"resampled: a state {list(state_1MC.shape)} on a grid of {' x '.join(map(str, have))} for one "
            f"of {' x '.join(map(str, want))}; it needs [1, {math.prod(have)}, channels] and sizes of 1 or "
            f"more."
        )
    if have == want:
        return state_1MC
    grid = state_1MC[0].double().unflatten(0, have)
    for axis, (cells, wanted) in enumerate(zip(have, want, strict=True)):
        if cells != wanted:
            weights = _weights(cells, wanted).to(grid.device)
            grid = torch.einsum("wc,c...->w...", weights, grid.movedim(axis, 0)).movedim(0, axis)
    return grid.flatten(0, 2)[None].to(state_1MC.dtype)


def for_grid(encoder: MemoryEncoder, grid_height: int, grid_width: int) -> MemoryEncoder:
    """The encoder for frames of so many rows and columns of tokens.

    It is frozen and shares all layers with the given one; it is the given one where that has this grid.
    """
    config = encoder.config
    have = (config.frames, config.grid_height, config.grid_width)
    want = (config.frames, grid_height, grid_width)
    if have == want:
        return encoder
    state = encoder.state_dict()
    state["query_init"] = resampled(state["query_init"], have, want)
    with torch.device("meta"):
        made = MemoryEncoder(replace(config, grid_height=grid_height, grid_width=grid_width))
    made.load_state_dict(state, assign=True)
    return made.requires_grad_(False).eval()


def _weights(cells: int, wanted: int) -> Tensor:
    """What each of the wanted cells takes of each of those there are, [wanted, cells]; rows add up to 1."""
    step = cells / wanted
    centres = (torch.arange(wanted, dtype=torch.float64) + 0.5) * step
    apart = (centres[:, None] - (torch.arange(cells, dtype=torch.float64) + 0.5)).abs()
    weights = (1 - apart / max(step, 1.0)).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)
