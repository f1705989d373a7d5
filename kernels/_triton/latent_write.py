"""Triton version of kernels/latent_write.py: a program projects, scales and packs one group of channels."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..tiers import Tiers
from ._codes import store_codes
from ._launch import Launch, power_of_two, strides

BLOCK_L, BLOCK_C = 64, 64


@triton.jit(do_not_specialize=["L", "SCALES", "scales_b"])
def _latent_write(
    X, BASIS, SHIFT, CODES, SCALES, L, C, x_b, x_l, basis_c, codes_b, codes_l, scales_b, scales_l, wide,
    GROUP: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    group, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    ok, at = row < L, row.to(tl.int64)
    c, g = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_G)
    column = group * GROUP + g
    x_at = X + batch * x_b + at[:, None] * x_l + c[None, :]
    acc = tl.zeros((BLOCK_L, BLOCK_G), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        here = c0 + c < C
        x = tl.load(x_at + c0, mask=ok[:, None] & here[None, :], other=0.0)
        p_at = BASIS + (c0 + c)[:, None] * basis_c + column[None, :]
        p = tl.load(p_at, mask=here[:, None] & (g < GROUP)[None, :], other=0.0)
        if x.dtype == tl.float32:
            acc = tl.dot(x, p, acc, input_precision="ieee")
        else:
            # the float32 basis as a sum of two numbers of x's type: 16 bits of it in two products
            high = p.to(x.dtype)
            acc = tl.dot(x, high, acc)
            acc = tl.dot(x, (p - high.to(tl.float32)).to(x.dtype), acc)
    acc -= tl.load(SHIFT + column, mask=g < GROUP, other=0.0)[None, :]
    scale_at = SCALES + batch * scales_b + at * scales_l + group
    row_at = batch * codes_b + at * codes_l
    if group * GROUP < wide:
        store_codes(acc, CODES, scale_at, row_at, group * GROUP, ok, 8, GROUP, BLOCK_G)
    else:
        byte0 = wide + (group * GROUP - wide) // 2
        store_codes(acc, CODES, scale_at, row_at, byte0, ok, 4, GROUP, BLOCK_G)


def latent_write_triton(
    x_BLC: Tensor, basis_CR: Tensor, shift_R: Tensor, tiers: Tiers, codes: Tensor, scales: Tensor
) -> None:
    """See `kernels.latent_write.latent_write`."""
    launch(x_BLC, basis_CR, shift_R, tiers, codes, scales).run()


def launch(
    x_BLC: Tensor, basis_CR: Tensor, shift_R: Tensor, tiers: Tiers, codes: Tensor, scales: Tensor
) -> Launch:
    """The launch that writes the rows."""
    rows, tokens, channels = x_BLC.shape
    arguments = {
        "X": x_BLC,
        "BASIS": basis_CR,
        "SHIFT": shift_R,
        "CODES": codes,
        "SCALES": scales,
        "L": tokens,
    }
    arguments |= {"C": channels} | strides("x", x_BLC, "bl") | {"basis_c": basis_CR.stride(0)}
    arguments |= strides("codes", codes, "bl") | strides("scales", scales, "bl") | {"wide": tiers.wide}
    constants = {"GROUP": tiers.group, "BLOCK_G": power_of_two(tiers.group, 16)}
    constants |= {"BLOCK_L": BLOCK_L, "BLOCK_C": BLOCK_C}
    grid = (triton.cdiv(tokens, BLOCK_L), tiers.groups, rows)
    return Launch("latent_write", _latent_write, grid, arguments, constants, warps=4, stages=2)
