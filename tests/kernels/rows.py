"""Buffers for kernel tests: strided rows with something poisonous around them, and exact turns."""

import torch
from torch import Tensor

MARK = {torch.int8: -128, torch.uint8: 0xF0}  # codes that quantising never makes


def room(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns (rows, all of the buffer they lie in): every side has space, the strides are not packed."""
    poison = MARK.get(dtype, torch.nan)
    around = torch.full([size + 3 for size in shape], poison, dtype=dtype)
    return around[tuple(slice(2, 2 + size) for size in shape)], around


def untouched(rows: Tensor, around: Tensor) -> bool:
    """Tells whether everything around the rows is as `room` left it."""
    rest = around.clone()
    rest[tuple(slice(2, 2 + size) for size in rows.shape)] = MARK.get(rows.dtype, torch.nan)
    return bool(rest.isnan().all() if rest.is_floating_point() else (rest == MARK[rows.dtype]).all())


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Returns float64 x [..., L, N, D] with each pair of channels times its own matrix; angles [L, D/2]."""
    c, s = angles.cos(), angles.sin()
    matrix = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    return torch.einsum("lpij,...lnpj->...lnpi", matrix, x.double().unflatten(-1, (-1, 2))).flatten(-2)


def table_of(angles: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns (cos, sin) of the angles as kernels read them."""
    return torch.stack([angles.cos(), angles.sin()], -1).to(dtype)
