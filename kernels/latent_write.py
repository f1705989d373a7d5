"""Tokens projected to latents, quantised into rows of a cache. B rows, L tokens, C channels, R latents."""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import uses_triton
from .quantize import quantize
from .tiers import Tiers, check_rows


def latent_write(
    x_BLC: Tensor,
    basis_CR: Tensor,
    shift_R: Tensor,
    tiers: Tiers,
    codes: Tensor,
    scales: Tensor,
    impl: str = "auto",
) -> None:
    """Write c = x P - shift into codes [B, L, tiers.code_bytes] (int8) and scales [B, L, tiers.groups].

    With shift = mu P this is (x - mu) P. basis, shift: float32 or float64, on x's device: rounding
    a whitened basis would lose small directions. codes, scales: views of the rows, contiguous in the last
    dimension; all of their bytes are written. Sums are float32, or float64 if x or the basis is.
    """
    if x_BLC.ndim != 3 or tuple(basis_CR.shape) != (x_BLC.shape[2], tiers.rank):
        raise ValueError(
            f"latent_write: x [B, L, C] of {list(x_BLC.shape)} and {tiers.rank} latent channels need a basis "
            f"[C, {tiers.rank}], got {list(basis_CR.shape)}."
        )
    if tuple(shift_R.shape) != (tiers.rank,):
        raise ValueError(
            f"latent_write: shift must be [{tiers.rank}], got {list(shift_R.shape)}; compute it as mu P."
        )
    if not {basis_CR.dtype, shift_R.dtype} <= {torch.float32, torch.float64}:
        raise ValueError(
            f"latent_write: basis and shift must be float32, got {basis_CR.dtype} and {shift_R.dtype}; "
            f"convert both."
        )
    check_rows("latent_write", tiers, codes, scales)
    if codes.shape[:2] != x_BLC.shape[:2]:
        raise ValueError(
            f"latent_write: {list(x_BLC.shape[:2])} tokens do not fit into rows {list(codes.shape[:2])}; "
            f"pass one row of codes a token."
        )
    if uses_triton("latent_write", impl, x_BLC, basis_CR, shift_R, codes, scales, multiplies=x_BLC):
        from ._triton.latent_write import latent_write_triton

        latent_write_triton(x_BLC, basis_CR, shift_R, tiers, codes, scales)
    else:
        latent_write_reference(x_BLC, basis_CR, shift_R, tiers, codes, scales)


def latent_write_reference(
    x_BLC: Tensor, basis_CR: Tensor, shift_R: Tensor, tiers: Tiers, codes: Tensor, scales: Tensor
) -> None:
    """Projection, then quantisation of each tier."""
    wide = torch.promote_types(x_BLC.dtype, basis_CR.dtype)
    c_BLR = x_BLC.to(wide) @ basis_CR.to(wide) - shift_R.to(wide)
    parts = zip(c_BLR.split([tiers.wide, tiers.narrow], -1), tiers.split(codes, scales), (8, 4), strict=True)
    for part, (rows, steps), bits in parts:
        if part.shape[-1]:
            quantize(part, tiers.group, bits, rows, steps, impl="reference")
