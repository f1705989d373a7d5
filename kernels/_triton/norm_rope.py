"""Triton version of kernels/norm_rope.py: one program a token, memory-bound (one read, one write of x)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, power_of_two, strides


@triton.jit
def rotate_pairs(x, cos, sin, D: tl.constexpr):
    """Rows of pairs (2i, 2i+1) times e^(i angle); x [rows, D], cos and sin broadcast to [rows, D/2]."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], D // 2, 2)))
    return tl.interleave(even * cos - odd * sin, even * sin + odd * cos)


@triton.jit
def _norm_rope(
    X, GAIN, TABLE, INVERSE, OUT, HEADS, eps, x_b, x_l, x_n, t_l, i_b, i_l, o_b, o_l, o_n,
    D: tl.constexpr, NORM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, channel, pair = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_D // 2)
    mask = (head < HEADS)[:, None] & (channel < D)[None, :]
    x_at = X + batch * x_b + token * x_l + head[:, None] * x_n + channel[None, :]
    x = tl.load(x_at, mask=mask, other=0.0).to(tl.float32)
    if NORM:
        if INVERSE is not None:
            inverse = tl.load(INVERSE + batch * i_b + token * i_l).to(tl.float32)
        else:
            inverse = tl.rsqrt(tl.sum(tl.sum(x * x, 1), 0) / (HEADS * D) + eps)
        x = x * inverse
        if GAIN is not None:
            x = x * tl.load(GAIN + head[:, None] * D + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    t_at = TABLE + token * t_l + pair * 2
    cos = tl.load(t_at, mask=pair < D // 2, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(t_at + 1, mask=pair < D // 2, other=0.0).to(tl.float32)[None, :]
    o_at = OUT + batch * o_b + token * o_l + head[:, None] * o_n + channel[None, :]
    tl.store(o_at, rotate_pairs(x, cos, sin, BLOCK_D).to(OUT.dtype.element_ty), mask=mask)


def norm_rope_triton(
    x_BLND: Tensor,
    gain_ND: Tensor | None,
    table_L: Tensor,
    eps: float,
    inverse_rms_BL: Tensor | None,
    out: Tensor,
) -> Tensor:
    """See `kernels.norm_rope.norm_rope`."""
    launch(x_BLND, table_L, out, True, eps, gain_ND, inverse_rms_BL).run()
    return out


def launch(
    x_BLND: Tensor,
    table_L: Tensor,
    out: Tensor,
    norm: bool,
    eps: float = 0.0,
    gain_ND: Tensor | None = None,
    inverse_rms_BL: Tensor | None = None,
) -> Launch:
    """The launch that norms, where `norm` is set, and rotates."""
    rows, tokens, heads, width = x_BLND.shape
    arguments = {"X": x_BLND, "GAIN": gain_ND, "TABLE": table_L, "INVERSE": inverse_rms_BL, "OUT": out}
    arguments |= {"HEADS": heads, "eps": eps} | strides("x", x_BLND, "bln") | {"t_l": table_L.stride(0)}
    arguments |= strides("i", inverse_rms_BL, "bl") | strides("o", out, "bln")
    block_n, block_d = power_of_two(heads), power_of_two(width, 2)
    constants = {"D": width, "NORM": norm, "BLOCK_N": block_n, "BLOCK_D": block_d}
    warps = 4 if block_n * block_d <= 4096 else 8
    op = "norm_rope" if norm else "rotate"
    return Launch(op, _norm_rope, (tokens, rows), arguments, constants, warps=warps, stages=1)
