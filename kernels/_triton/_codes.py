"""Rounding to integer codes, shared by the kernels that quantise."""

import triton
import triton.language as tl


@triton.jit
def scale_of(x, top: tl.constexpr, kind: tl.constexpr):
    """Scale of each row of x, as it is stored."""
    largest: tl.constexpr = 65504.0 if kind == tl.float16 else 3.4e38
    return tl.minimum(tl.div_rn(tl.max(tl.abs(x), 1), top * 1.0), largest).to(kind)


@triton.jit
def codes_of(x, scale, top: tl.constexpr):
    """x / scale to the nearest integer, halves away from zero; rows with scale 0 give 0."""
    step = scale.to(tl.float32)[:, None]
    ratio = tl.where(step > 0, tl.div_rn(x, tl.broadcast_to(tl.where(step > 0, step, 1.0), x.shape)), 0.0)
    size = tl.minimum(tl.floor(tl.abs(ratio) + 0.5), top * 1.0)
    return tl.where(ratio < 0, -size, size)


@triton.jit
def store_codes(
    x, CODES, scale_at, at, byte0, ok, BITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_G: tl.constexpr
):
    """Quantise x [BLOCK_L, BLOCK_G], of which GROUP channels count, into bytes from `byte0` of rows `at`."""
    top: tl.constexpr = 127 if BITS == 8 else 7
    scale = scale_of(x, top, scale_at.dtype.element_ty)
    codes = codes_of(x, scale, top)
    tl.store(scale_at, scale, mask=ok)
    if BITS == 8:
        byte = tl.arange(0, BLOCK_G)
        mask = ok[:, None] & (byte < GROUP)[None, :]
        tl.store(CODES + at[:, None] + (byte0 + byte)[None, :], codes.to(tl.int8), mask=mask)
    else:
        low, high = tl.split(tl.reshape((codes + 8.0).to(tl.int32), (x.shape[0], BLOCK_G // 2, 2)))
        byte = tl.arange(0, BLOCK_G // 2)
        mask = ok[:, None] & (byte < GROUP // 2)[None, :]
        packed = (low | (high << 4)).to(tl.uint8).to(CODES.dtype.element_ty, bitcast=True)
        tl.store(CODES + at[:, None] + (byte0 + byte)[None, :], packed, mask=mask)
