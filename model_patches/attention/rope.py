"""Rotary angles of a set of latent frames. L tokens in frame, row, column order; D head width."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..arch.rotary import THETA, RopeLayout, axis_channels
from ..transfer import to_device

Key = tuple[tuple[int, ...], int, int, int, torch.device, torch.dtype, RopeLayout | None]

# tables that are kept: at most so many, of so many bytes, but however large a block's own: of its keys, its
# queries and its memory, and one more. A table of 21 latent frames at 832x480 is 16.8 MB
MOST_TABLES, KEPT_BYTES, LEAST_TABLES = 16, 64 * 2**20, 4


def layout_of(dit: object) -> RopeLayout | None:
    """The model's `rope_layout`; None: every channel of a head is rotated, at Wan's frequencies."""
    return getattr(dit, "rope_layout", None)


def rope_table(
    ids: Sequence[int],
    grid_height: int,
    grid_width: int,
    head_dim: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: RopeLayout | None = None,
) -> Tensor:
    """(cos, sin) of every token [len(ids)*grid_height*grid_width, D/2, 2], one grid per frame id.

    Angles are float64: integer position times 10000^(-2i / channels of the axis), pairs in the order time,
    row, column; only cosine and sine are rounded to `dtype`. With a layout, pairs without rotation come
    first, as (1, 0). The newest tables are kept and shared: do not write into one. Raises
    ValueError for a layout of another head width.
    """
    if layout is not None and layout.head_dim != head_dim:
        raise ValueError(
            f"RoPE: the layout is of heads of {layout.head_dim} channels, the heads have {head_dim}; "
            f"take the layout of this model."
        )
    key = (tuple(ids), grid_height, grid_width, head_dim, torch.device(device), dtype, layout)
    table = _kept.pop(key, None)
    _kept[key] = table = _table(*key) if table is None else table
    _forget_oldest()
    return table


def forget_tables() -> None:
    """Drop the tables that are kept."""
    _kept.clear()


_kept: OrderedDict[Key, Tensor] = OrderedDict()  # oldest use first


def _forget_oldest() -> None:
    held = sum(table.nbytes for table in list(_kept.values()))
    while len(_kept) > MOST_TABLES or (held > KEPT_BYTES and len(_kept) > LEAST_TABLES):
        held -= _kept.popitem(last=False)[1].nbytes


def _table(
    ids: tuple[int, ...],
    height: int,
    width: int,
    head_dim: int,
    device: torch.device,
    dtype: torch.dtype,
    layout: RopeLayout | None,
) -> Tensor:
    # a table created in inference mode cannot be used in training later
    with torch.inference_mode(False), torch.no_grad():
        places = (ids, range(height), range(width))
        axes = zip(places, _rates(head_dim, layout), strict=True)
        time, row, column = (_cos_sin(list(at), rates) for at, rates in axes)
        grid = (len(ids), height, width)
        still = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(layout.still // 2 if layout else 0, 2)
        table = torch.cat(
            [
                still.expand(*grid, -1, -1),
                time[:, None, None].expand(*grid, -1, -1),
                row[None, :, None].expand(*grid, -1, -1),
                column[None, None].expand(*grid, -1, -1),
            ],
            dim=3,
        )
        return to_device(table.reshape(-1, head_dim // 2, 2), device, dtype)


def _rates(head_dim: int, layout: RopeLayout | None) -> list[Tensor]:
    """Radians per step of each pair, float64, by axis."""
    if layout is not None:
        return [
            torch.tensor(rates, dtype=torch.float64) for rates in (layout.time, layout.row, layout.column)
        ]
    widths = axis_channels(head_dim)
    return [THETA ** (-torch.arange(0, width, 2, dtype=torch.float64) / width) for width in widths]


def _cos_sin(places: list[int], rates: Tensor) -> Tensor:
    """(cos, sin) of positions on one axis, float64 [len(places), pairs, 2]."""
    angles = torch.tensor(places, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()], dim=-1)
