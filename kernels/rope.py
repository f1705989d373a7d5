"""Rotary position embedding from a table. B batch, L tokens, N heads, D head width."""

import torch
from torch import Tensor
from torch.library import custom_op

from .dispatch import offered, uses_triton


def rotate(x_BLND: Tensor, table_L: Tensor, impl: str = "auto", out: Tensor | None = None) -> Tensor:
    """x with each channel pair (2i, 2i+1) rotated by its angle; shape, dtype and device of x.

    table_L: (cos, sin) [L, D/2, 2], on x's device. Computed in float32, or in float64 if x or the table is.
    impl: see `dispatch.uses_triton` and `dispatch.offered`. out: written and returned, no memory shared with
    x.
    """
    _check(x_BLND, table_L)
    if out is not None and (out.shape != x_BLND.shape or out.dtype != x_BLND.dtype):
        raise ValueError(
            f"rotate: out must be {list(x_BLND.shape)} of {x_BLND.dtype}, "
            f"got {list(out.shape)} of {out.dtype}."
        )
    if torch.compiler.is_compiling():
        rotated = torch.empty_like(x_BLND, memory_format=torch.contiguous_format) if out is None else out
        _rotate_node(x_BLND, table_L, impl, rotated)
        return rotated
    if uses_triton("rotate", impl, x_BLND, table_L, out, obstacle=table_obstacle(table_L)):
        from ._triton.rope import rotate_triton

        rotated = torch.empty_like(x_BLND, memory_format=torch.contiguous_format) if out is None else out
        return rotate_triton(x_BLND, table_L, rotated)
    if (operation := offered("rotate", impl, x_BLND)) is not None:
        rotated = operation(x_BLND, table_L)
        return rotated if out is None else out.copy_(rotated)
    return rotate_reference(x_BLND, table_L, out)


def rotate_reference(x_BLND: Tensor, table_L: Tensor, out: Tensor | None = None) -> Tensor:
    """(a + ib) e^(i angle) for each pair of channels (a, b) (RoFormer, arXiv:2104.09864, section 3.2)."""
    wide = torch.promote_types(torch.promote_types(x_BLND.dtype, table_L.dtype), torch.float32)
    x, table = x_BLND.to(wide), table_L.to(wide).flatten(-2)
    pairs = _complex(x if _pairs_are_adjacent(x) else x.clone(memory_format=torch.contiguous_format))
    phases = _complex(table)[:, None]
    if out is not None and out.dtype == wide and _pairs_are_adjacent(out):
        torch.mul(pairs, phases, out=_complex(out))
        return out
    rotated = torch.view_as_real(pairs * phases).flatten(-2)
    return rotated.to(x_BLND.dtype) if out is None else out.copy_(rotated)


# one node of a graph that torch.compile makes, whichever implementation runs
# the schema in words: torch 2.4 reads none from annotations that are not evaluated
@custom_op(
    "rivulet::rotate",
    mutates_args=("out",),
    schema="(Tensor x, Tensor table, str impl, Tensor(a!) out) -> ()",
)
def _rotate_node(x: Tensor, table: Tensor, impl: str, out: Tensor) -> None:
    rotate(x, table, impl, out)


_rotate_node.register_fake(lambda *_: None)


def table_obstacle(table_L: Tensor) -> str:
    """Reason why a kernel cannot read this table, "" for none: it needs (cos, sin) pairs in a row."""
    packed = table_L.shape[1] < 2 or table_L.stride(1) == 2
    return "" if packed else "the table's pairs are not contiguous."


def _pairs_are_adjacent(x: Tensor) -> bool:
    """Whether a view can read neighbouring channels as one complex number."""
    return x.stride(-1) == 1 and not any(stride % 2 for stride in (*x.stride()[:-1], x.storage_offset()))


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _check(x_BLND: Tensor, table_L: Tensor) -> None:
    if x_BLND.ndim != 4 or not x_BLND.is_floating_point():
        raise ValueError(
            f"rotate: x must be [B, L, N, D] of floating point, got {list(x_BLND.shape)} of {x_BLND.dtype}."
        )
    tokens, width = x_BLND.shape[1], x_BLND.shape[3]
    if tuple(table_L.shape) != (tokens, width // 2, 2) or width % 2:
        raise ValueError(
            f"rotate: {tokens} tokens of head width {width} need a table [{tokens}, {width // 2}, 2], "
            f"got {list(table_L.shape)}; make it with rope_table for the same frames and grid."
        )
    if table_L.device != x_BLND.device:
        raise ValueError(f"rotate: x is on {x_BLND.device}, the table on {table_L.device}; move one of them.")
