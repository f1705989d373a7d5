"""Triton version of kernels/quantize.py. Bound by memory: each byte is read once and written once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._codes import store_codes
from ._launch import Launch, power_of_two, strides

BLOCK_L = 32


@triton.jit(do_not_specialize=["L", "SCALES", "scales_b"])
def _quantize(
    X, CODES, SCALES, L, x_b, x_l, codes_b, codes_l, scales_b, scales_l,
    BITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    group, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    ok, at, channel = row < L, row.to(tl.int64), tl.arange(0, BLOCK_G)
    mask = ok[:, None] & (channel < GROUP)[None, :]
    x_at = X + batch * x_b + at[:, None] * x_l + (group * GROUP + channel)[None, :]
    x = tl.load(x_at, mask=mask, other=0.0).to(tl.float32)
    scale_at = SCALES + batch * scales_b + at * scales_l + group
    byte0 = group * (GROUP * BITS // 8)
    store_codes(x, CODES, scale_at, batch * codes_b + at * codes_l, byte0, ok, BITS, GROUP, BLOCK_G)


@triton.jit(do_not_specialize=["L", "SCALES", "scales_b"])
def _dequantize(
    CODES, SCALES, OUT, L, codes_b, codes_l, scales_b, scales_l, o_b, o_l,
    BITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    group, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    ok, at, channel = row < L, row.to(tl.int64), tl.arange(0, BLOCK_G)
    mask = ok[:, None] & (channel < GROUP)[None, :]
    scale = tl.load(SCALES + batch * scales_b + at * scales_l + group, mask=ok, other=0.0).to(tl.float32)
    code_at = CODES + batch * codes_b + at[:, None] * codes_l
    if BITS == 8:
        code = tl.load(code_at + (group * GROUP + channel)[None, :], mask=mask, other=0).to(tl.float32)
    else:
        # both channels of a pair read its byte; the second read comes from the cache
        byte = tl.load(code_at + (group * (GROUP // 2) + channel // 2)[None, :], mask=mask, other=8)
        code = ((byte.to(tl.int32) >> (channel % 2 * 4)[None, :]) & 15).to(tl.float32) - 8.0
    o_at = OUT + batch * o_b + at[:, None] * o_l + (group * GROUP + channel)[None, :]
    tl.store(o_at, (code * scale[:, None]).to(OUT.dtype.element_ty), mask=mask)


def quantize_triton(x_RC: Tensor, group: int, bits: int, out: Tensor, scales: Tensor) -> None:
    """See `kernels.quantize.quantize`."""
    quantize_launch(_three(x_RC), _three(out), _three(scales), group, bits).run()


def dequantize_triton(codes: Tensor, scales: Tensor, group: int, bits: int, out: Tensor) -> None:
    """See `kernels.quantize.dequantize`."""
    dequantize_launch(_three(codes), _three(scales), _three(out), group, bits).run()


def quantize_launch(x_BLC: Tensor, codes: Tensor, scales: Tensor, group: int, bits: int) -> Launch:
    """The launch that writes codes [B, L, C * bits/8] and scales [B, L, C/group]."""
    arguments = {"X": x_BLC, "CODES": codes, "SCALES": scales, "L": x_BLC.shape[1]}
    arguments |= strides("x", x_BLC, "bl") | strides("codes", codes, "bl") | strides("scales", scales, "bl")
    return _launch("quantize", _quantize, arguments, scales, group, bits)


def dequantize_launch(codes: Tensor, scales: Tensor, out_BLC: Tensor, group: int, bits: int) -> Launch:
    """The launch that writes the channels [B, L, C]."""
    arguments = {"CODES": codes, "SCALES": scales, "OUT": out_BLC, "L": codes.shape[1]}
    arguments |= strides("codes", codes, "bl") | strides("scales", scales, "bl") | strides("o", out_BLC, "bl")
    return _launch("dequantize", _dequantize, arguments, scales, group, bits)


def _launch(op: str, kernel, arguments: dict, scales: Tensor, group: int, bits: int) -> Launch:
    rows, tokens, groups = scales.shape
    constants = {"BITS": bits, "GROUP": group, "BLOCK_G": power_of_two(group, 2), "BLOCK_L": BLOCK_L}
    return Launch(
        op, kernel, (triton.cdiv(tokens, BLOCK_L), groups, rows), arguments, constants, warps=4, stages=1
    )


def _three(x: Tensor) -> Tensor:
    """The same numbers as [B, L, C], as a view."""
    return x[(None,) * (3 - x.ndim)]
