"""Resamples the memory's initial state, trained at one picture size, to the grid of another.

The state's tokens are in the order frame, row, column, like the tokens of latents. M tokens, C channels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .encoder import MemoryEncoder

Grid = tuple[int, int, int]  # frames, rows, columns


def resample(state_1MC: Tensor, have: Grid, want: Grid) -> Tensor:
    """The state [1, M, C] of grid `have` on grid `want`; the same tensor where the two are equal.

    Along each axis the cells of both grids cover the same length. More cells are interpolated between the
    nearest two; fewer are averaged with a triangular filter two new cells wide. Computed in float64.
    Raises ValueError for a state or grid of other sizes.
    """
    if state_1MC.ndim != 3 or state_1MC.shape[1] != math.prod(have) or min(*have, *want) < 1:
        raise ValueError(
            f"resample: a state {list(state_1MC.shape)} on a grid of {' x '.join(map(str, have))} for one "
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


def resize_encoder(encoder: MemoryEncoder, grid_height: int, grid_width: int) -> MemoryEncoder:
    """The encoder for frames of so many rows and columns of tokens; the same one if it has this grid.

    The new encoder is frozen and shares all layers with the given one.
    """
    config = encoder.config
    have = (config.frames, config.grid_height, config.grid_width)
    want = (config.frames, grid_height, grid_width)
    if have == want:
        return encoder
    state = encoder.state_dict()
    state["query_init"] = resample(state["query_init"], have, want)
    with torch.device("meta"):
        resized = MemoryEncoder(replace(config, grid_height=grid_height, grid_width=grid_width))
    resized.load_state_dict(state, assign=True)
    return resized.requires_grad_(False).eval()


def _weights(cells: int, wanted: int) -> Tensor:
    """Weights [wanted, cells] of the present cells for each wanted cell; each row sums to 1."""
    step = cells / wanted
    centres = (torch.arange(wanted, dtype=torch.float64) + 0.5) * step
    distance = (centres[:, None] - (torch.arange(cells, dtype=torch.float64) + 0.5)).abs()
    weights = (1 - distance / max(step, 1.0)).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)
