"""RMSNorm over all heads and rotary embedding in one pass. B rows, L tokens, N heads, D head width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from .dispatch import uses_triton
from .rope import rotate_reference, table_obstacle


def norm_rope(
    x_BLND: Tensor,
    gain_ND: Tensor | None,
    table_L: Tensor,
    eps: float = 1e-6,
    inverse_rms_BL: Tensor | None = None,
    out: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """rotate(x / rms(x) * gain), the rms over all N*D channels of a token as in Wan; shape and dtype of x.

    gain: [N*D], None: 1. table: (cos, sin) [L, D/2, 2]. inverse_rms [B, L]: replaces 1/rms(x) and eps.
    Computed in float32 (float64 if x or the table is) and rounded once. out: written and returned, no memory
    shared with x; None: a new tensor.
    """
    _check(x_BLND, gain_ND, table_L, inverse_rms_BL)
    if out is None:
        out = torch.empty_like(x_BLND, memory_format=torch.contiguous_format)
    if out.shape != x_BLND.shape or out.dtype != x_BLND.dtype:
        raise ValueError(
            f"norm_rope: out must be {list(x_BLND.shape)} of {x_BLND.dtype}, "
            f"got {list(out.shape)} of {out.dtype}; pass a buffer like x."
        )
    if torch.compiler.is_compiling():
        _norm_rope_node(x_BLND, gain_ND, table_L, eps, inverse_rms_BL, impl, out)
        return out
    if uses_triton("norm_rope", impl, x_BLND, gain_ND, table_L, out, obstacle=table_obstacle(table_L)):
        from ._triton.norm_rope import norm_rope_triton

        return norm_rope_triton(x_BLND, gain_ND, table_L, eps, inverse_rms_BL, out)
    return norm_rope_reference(x_BLND, gain_ND, table_L, eps, inverse_rms_BL, out)


def runs_kernel(x_BLND: Tensor, table_L: Tensor) -> bool:
    """Whether `norm_rope` is one pass over x; elsewhere a model's own norm and `rotate` do as well."""
    if torch.compiler.is_compiling():
        return False
    return uses_triton("norm_rope", "auto", x_BLND, table_L, obstacle=table_obstacle(table_L))


def norm_rope_reference(
    x_BLND: Tensor,
    gain_ND: Tensor | None,
    table_L: Tensor,
    eps: float,
    inverse_rms_BL: Tensor | None,
    out: Tensor,
) -> Tensor:
    """RMSNorm (arXiv:1910.07467, equation 4), then the rotation of each pair of channels."""
    wide = torch.promote_types(torch.promote_types(x_BLND.dtype, table_L.dtype), torch.float32)
    x = x_BLND.to(wide)
    if inverse_rms_BL is None:
        inverse = torch.rsqrt(x.square().mean((-2, -1)) + eps)
    else:
        inverse = inverse_rms_BL.to(wide)
    x = x * inverse[..., None, None]
    if gain_ND is not None:
        x = x * gain_ND.to(wide).view(x.shape[-2:])
    return rotate_reference(x, table_L, out)


# one node of a graph that torch.compile makes, whichever implementation runs
# the schema in words: torch 2.4 reads none from annotations that are not evaluated
@custom_op(
    "rivulet::norm_rope",
    mutates_args=("out",),
    schema="(Tensor x, Tensor? gain, Tensor table, float eps, Tensor? inverse_rms, str impl, "
    "Tensor(a!) out) -> ()",
)
def _norm_rope_node(
    x: Tensor,
    gain: Tensor | None,
    table: Tensor,
    eps: float,
    inverse_rms: Tensor | None,
    impl: str,
    out: Tensor,
) -> None:
    norm_rope(x, gain, table, eps, inverse_rms, out, impl)


_norm_rope_node.register_fake(lambda *_: None)


def _check(x_BLND: Tensor, gain_ND: Tensor | None, table_L: Tensor, inverse_rms_BL: Tensor | None) -> None:
    if x_BLND.ndim != 4 or not x_BLND.is_floating_point():
        raise ValueError(
            f"norm_rope: x must be [B, L, N, D] of floating point, "
            f"got {list(x_BLND.shape)} of {x_BLND.dtype}; reshape or convert it."
        )
    rows, tokens, heads, width = x_BLND.shape
    if gain_ND is not None and tuple(gain_ND.shape) != (heads * width,):
        raise ValueError(
            f"norm_rope: {heads} heads of {width} need a gain [{heads * width}], got {list(gain_ND.shape)}; "
            f"pass one for each channel."
        )
    if tuple(table_L.shape) != (tokens, width // 2, 2) or width % 2:
        raise ValueError(
            f"norm_rope: {tokens} tokens of head width {width} need a table [{tokens}, {width // 2}, 2], "
            f"got {list(table_L.shape)}; make it with rope_table for the same frames and grid."
        )
    if inverse_rms_BL is not None and tuple(inverse_rms_BL.shape) != (rows, tokens):
        raise ValueError(
            f"norm_rope: inverse_rms must be {[rows, tokens]}, got {list(inverse_rms_BL.shape)}; "
            f"pass one for each token."
        )
