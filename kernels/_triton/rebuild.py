"""Triton version of kernels/rebuild.py: keys and values of one head and a block of tokens a program.

R channels are read by the up-projections, NOPE of a head's D key channels are made by them, E shared channels
follow them in the latent. Codes are rotated into numbers in registers, once for each head.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..projections import UpProjections
from ..tiers import Latents
from ._launch import Launch, power_of_two, strides
from .norm_rope import rotate_pairs

BLOCK_L = 64


@triton.jit
def _multiply(x, UK, UV, row, row_ok, uk_l, uv_l, k_ok, v_ok, k, v):
    """k + x U_k, v + x U_v, for rows `row` of this head's columns."""
    uk = tl.load(UK + row[:, None] * uk_l, mask=row_ok[:, None] & k_ok, other=0.0)
    uv = tl.load(UV + row[:, None] * uv_l, mask=row_ok[:, None] & v_ok, other=0.0)
    x = x.to(uk.dtype)
    return tl.dot(x, uk, k, input_precision="ieee"), tl.dot(x, uv, v, input_precision="ieee")


@triton.jit
def _project(
    C_AT, S_AT, UK, UV, ok, R, wide, uk_r, uv_r, k_ok, v_ok, k, v,
    TIERS: tl.constexpr, GROUP: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """(c U_k, c U_v) of a block of latents, group by group."""
    g = tl.arange(0, BLOCK_G)
    for r0 in range(0, wide, GROUP):
        here = (g < GROUP) & (r0 + g < R)
        x = tl.load(C_AT + (r0 + g)[None, :], mask=ok[:, None] & here[None, :], other=0).to(tl.float32)
        if TIERS:
            x = x * tl.load(S_AT + r0 // GROUP, mask=ok, other=0.0).to(tl.float32)[:, None]
        k, v = _multiply(x, UK, UV, r0 + g, here, uk_r, uv_r, k_ok, v_ok, k, v)
    if TIERS:
        HALF: tl.constexpr = BLOCK_G // 2 if BLOCK_G >= 32 else 16
        h = tl.arange(0, HALF)
        here = h < GROUP // 2
        for r0 in range(wide, R, GROUP):
            byte_at = C_AT + (wide + (r0 - wide) // 2 + h)[None, :]
            byte = tl.load(byte_at, mask=ok[:, None] & here[None, :], other=0).to(tl.int32)
            scale = tl.load(S_AT + r0 // GROUP, mask=ok, other=0.0).to(tl.float32)[:, None]
            low = ((byte & 15).to(tl.float32) - 8.0) * scale
            k, v = _multiply(low, UK, UV, r0 + 2 * h, here, uk_r, uv_r, k_ok, v_ok, k, v)
            high = (((byte >> 4) & 15).to(tl.float32) - 8.0) * scale
            k, v = _multiply(high, UK, UV, r0 + 2 * h + 1, here, uk_r, uv_r, k_ok, v_ok, k, v)
    return k, v


@triton.jit
def _angles(T_AT, ok, PAIRS: tl.constexpr, BLOCK: tl.constexpr):
    pair = tl.arange(0, BLOCK)
    mask = ok[:, None] & (pair < PAIRS)[None, :]
    cos = tl.load(T_AT + 2 * pair[None, :], mask=mask, other=0.0).to(tl.float32)
    return cos, tl.load(T_AT + 2 * pair[None, :] + 1, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _shared_key(
    C_AT, S_AT, T_AT, ok, R,
    TIERS: tl.constexpr, GROUP: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr
):  # fmt: skip
    """The rotary key [BLOCK_L, BLOCK_E] that follows the R channels, rotated."""
    e = tl.arange(0, BLOCK_E)
    mask = ok[:, None] & (e < E)[None, :]
    x = tl.load(C_AT + (R + e)[None, :], mask=mask, other=0).to(tl.float32)
    if TIERS:
        x = x * tl.load(S_AT + ((R + e) // GROUP)[None, :], mask=mask, other=0.0).to(tl.float32)
    cos, sin = _angles(T_AT, ok, E // 2, BLOCK_E // 2)
    return rotate_pairs(x, cos, sin, BLOCK_E)


@triton.jit(do_not_specialize=["L", "SCALES", "INVERSE", "s_b", "i_b"])
def _rebuild(
    CODES, SCALES, INVERSE, TABLE, UK, UV, BK, BV, KEYS, VALUES, L, R, wide,
    c_b, c_l, s_b, s_l, i_b, i_l, t_l, uk_r, uv_r, k_b, k_l, k_n, v_b, v_l, v_n,
    TIERS: tl.constexpr, GROUP: tl.constexpr, BLOCK_G: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    ok, at, d = row < L, row.to(tl.int64), tl.arange(0, BLOCK_D)
    NOPE: tl.constexpr = D - E
    C_AT, S_AT = CODES + batch * c_b + at[:, None] * c_l, SCALES
    if TIERS:
        S_AT = SCALES + batch * s_b + at * s_l
    k_ok, v_ok = (d < NOPE)[None, :], (d < D)[None, :]
    uk_at, uv_at = UK + (head * NOPE + d)[None, :], UV + (head * D + d)[None, :]
    k, v = tl.zeros((BLOCK_L, BLOCK_D), tl.float32), tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
    k, v = _project(
        C_AT, S_AT, uk_at, uv_at, ok, R, wide, uk_r, uv_r, k_ok, v_ok, k, v, TIERS, GROUP, BLOCK_G
    )
    if BV is not None:
        v += tl.load(BV + head * D + d, mask=d < D, other=0.0)[None, :]
    v_at = VALUES + batch * v_b + at[:, None] * v_l + head * v_n + d[None, :]
    tl.store(v_at, v.to(VALUES.dtype.element_ty), mask=ok[:, None] & v_ok)
    if BK is not None:
        k += tl.load(BK + head * NOPE + d, mask=d < NOPE, other=0.0)[None, :]
    if INVERSE is not None:
        k = k * tl.load(INVERSE + batch * i_b + at * i_l, mask=ok, other=0.0).to(tl.float32)[:, None]
    T_AT = TABLE + at[:, None] * t_l
    k_at = KEYS + batch * k_b + at[:, None] * k_l + head * k_n
    if E == 0:
        cos, sin = _angles(T_AT, ok, D // 2, BLOCK_D // 2)
        k = rotate_pairs(k, cos, sin, BLOCK_D)
    else:
        if TIERS:
            S_AT = S_AT[:, None]
        e = tl.arange(0, BLOCK_E)
        shared = _shared_key(C_AT, S_AT, T_AT, ok, R, TIERS, GROUP, E, BLOCK_E)
        mask = ok[:, None] & (e < E)[None, :]
        tl.store(k_at + (NOPE + e)[None, :], shared.to(KEYS.dtype.element_ty), mask=mask)
    tl.store(k_at + d[None, :], k.to(KEYS.dtype.element_ty), mask=ok[:, None] & k_ok)


def rebuild_triton(
    latents: Latents,
    up: UpProjections,
    table_L: Tensor,
    keys_BLND: Tensor,
    values_BLND: Tensor,
    inverse_rms_BL: Tensor | None = None,
) -> None:
    """See `kernels.rebuild.rebuild`."""
    launch(latents, up, table_L, keys_BLND, values_BLND, inverse_rms_BL).run()


def launch(
    latents: Latents,
    up: UpProjections,
    table_L: Tensor,
    keys_BLND: Tensor,
    values_BLND: Tensor,
    inverse_rms_BL: Tensor | None = None,
) -> Launch:
    """The launch that writes keys and values."""
    rows, tokens, heads, width = keys_BLND.shape
    rank, tiers, codes = up.key.shape[0], latents.tiers, latents.codes
    shared = latents.rank - rank
    arguments = {"CODES": codes, "SCALES": latents.scales, "INVERSE": inverse_rms_BL, "TABLE": table_L}
    arguments |= {"UK": up.key, "UV": up.value, "BK": up.key_bias, "BV": up.value_bias}
    arguments |= {"KEYS": keys_BLND, "VALUES": values_BLND, "L": tokens, "R": rank}
    arguments |= {"wide": rank if tiers is None else min(tiers.wide, rank)}
    arguments |= (
        strides("c", codes, "bl") | strides("s", latents.scales, "bl") | strides("i", inverse_rms_BL, "bl")
    )
    arguments |= {"t_l": table_L.stride(0), "uk_r": up.key.stride(0), "uv_r": up.value.stride(0)}
    arguments |= strides("k", keys_BLND, "bln") | strides("v", values_BLND, "bln")
    group = 64 if tiers is None else tiers.group
    constants = {"TIERS": tiers is not None, "GROUP": group, "BLOCK_G": power_of_two(group, 16), "D": width}
    constants |= {"E": shared, "BLOCK_D": power_of_two(width, 16), "BLOCK_E": power_of_two(shared or 2, 2)}
    grid = (triton.cdiv(tokens, BLOCK_L), heads, rows)
    return Launch("rebuild", _rebuild, grid, arguments, constants | {"BLOCK_L": BLOCK_L}, warps=8, stages=2)
