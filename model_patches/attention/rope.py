"""Rotary angles of a set of latent frames. L tokens in frame, row, column order; D head width."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

THETA = 10000.0


def axis_channels(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that turn with time, row and column (Wan 2.1's split: 44, 42, 42 of 128)."""
    if head_dim < 6 or head_dim % 2:
        raise ValueError(f"RoPE: three axes need an even head width of 6 or more, got {head_dim}.")
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rope_table(
    ids: Sequence[int], grid_height: int, grid_width: int, head_dim: int, device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(cos, sin) of every token [len(ids)*grid_height*grid_width, D/2, 2], each frame a full grid at its id.

    Angles are float64 products of integer places with 10000^(-2i / channels of the axis), pairs in the order
    time, row, column; only cosine and sine are rounded to `dtype`. The newest few tables are kept and handed
    out again: do not write into one.
    """
    return _table(tuple(ids), grid_height, grid_width, head_dim, torch.device(device), dtype)


@lru_cache(maxsize=16)
def _table(
    ids: tuple[int, ...], height: int, width: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    # a table made inside inference mode could not be used in training later
    with torch.inference_mode(False), torch.no_grad():
        axes = zip((ids, range(height), range(width)), axis_channels(head_dim), strict=True)
        time, row, column = (_turns(list(places), channels) for places, channels in axes)
        grid = (len(ids), height, width)
        turns = torch.cat([
            time[:, None, None].expand(*grid, -1, -1),
            row[None, :, None].expand(*grid, -1, -1),
            column[None, None].expand(*grid, -1, -1),
        ], dim=3)
        return turns.reshape(-1, head_dim // 2, 2).to(dtype).to(device)


def _turns(places: list[int], channels: int) -> Tensor:
    """(cos, sin) of places on one axis, float64 [len(places), channels/2, 2]."""
    rates = THETA ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
    angles = torch.tensor(places, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()], dim=-1)
