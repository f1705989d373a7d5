"""Triton version of kernels/segment_attention.py: flash attention over up to three separate segments.

The running maximum and sum of arXiv:2205.14135, section 3.1, in base 2, carried from one segment to the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..segments import MAX_SEGMENTS, Segment
from ._launch import Launch, power_of_two, strides

BLOCK_M, BLOCK_L = 128, 32


@triton.jit
def _segment(q, K, V, L, k_l, v_l, most, total, acc, scale, D: tl.constexpr, BLOCK_L: tl.constexpr):
    """The running maximum, sum and result after this segment's keys."""
    row, d = tl.arange(0, BLOCK_L), tl.arange(0, q.shape[1])
    for l0 in range(0, L, BLOCK_L):
        ok, at = l0 + row < L, (l0 + row).to(tl.int64)
        k = tl.load(K + at[None, :] * k_l + d[:, None], mask=ok[None, :] & (d < D)[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        scores = tl.where(ok[None, :], scores, float("-inf"))
        new = tl.maximum(most, tl.max(scores, 1))
        weights, rescale = tl.exp2(scores - new[:, None]), tl.exp2(most - new)
        total = total * rescale + tl.sum(weights, 1)
        v = tl.load(V + at[:, None] * v_l + d[None, :], mask=ok[:, None] & (d < D)[None, :], other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        most = new
    return most, total, acc


@triton.jit(do_not_specialize=["L0", "L1", "L2", "M"])
def _segment_attention(
    Q, OUT, LOGSUM, K0, V0, K1, V1, K2, V2, L0, L1, L2, M, scale, q_b, q_m, q_n, o_b, o_m, o_n, s_b, s_n,
    k0_b, k0_l, k0_n, v0_b, v0_l, v0_n, k1_b, k1_l, k1_n, v1_b, v1_l, v1_n,
    k2_b, k2_l, k2_n, v2_b, v2_l, v2_n,
    D: tl.constexpr, SEGMENTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row, d = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    n, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    ok, at = row < M, row.to(tl.int64)
    mask = ok[:, None] & (d < D)[None, :]
    q = tl.load(Q + b * q_b + at[:, None] * q_m + n * q_n + d[None, :], mask=mask, other=0.0)
    most, total = tl.full((BLOCK_M,), float("-inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    scale2 = scale * 1.4426950408889634
    k, v = K0 + b * k0_b + n * k0_n, V0 + b * v0_b + n * v0_n
    most, total, acc = _segment(q, k, v, L0, k0_l, v0_l, most, total, acc, scale2, D, BLOCK_L)
    if SEGMENTS > 1:
        k, v = K1 + b * k1_b + n * k1_n, V1 + b * v1_b + n * v1_n
        most, total, acc = _segment(q, k, v, L1, k1_l, v1_l, most, total, acc, scale2, D, BLOCK_L)
    if SEGMENTS > 2:
        k, v = K2 + b * k2_b + n * k2_n, V2 + b * v2_b + n * v2_n
        most, total, acc = _segment(q, k, v, L2, k2_l, v2_l, most, total, acc, scale2, D, BLOCK_L)
    result = (acc / total[:, None]).to(OUT.dtype.element_ty)
    tl.store(OUT + b * o_b + at[:, None] * o_m + n * o_n + d[None, :], result, mask=mask)
    tl.store(LOGSUM + b * s_b + n * s_n + at, most * 0.6931471805599453 + tl.log(total), mask=ok)


def segment_attention_triton(
    q_BMND: Tensor, segments: Sequence[Segment], scale: float
) -> tuple[Tensor, Tensor]:
    """See `kernels.segment_attention.segment_attention`."""
    rows, queries, heads, _ = q_BMND.shape
    out = torch.empty_like(q_BMND, memory_format=torch.contiguous_format)
    total = q_BMND.new_empty(rows, heads, queries, dtype=torch.float32)
    launch(q_BMND, segments, scale, out, total).run()
    return out, total


def launch(q_BMND: Tensor, segments: Sequence[Segment], scale: float, out: Tensor, total: Tensor) -> Launch:
    """The launch that writes the result and its log-sum; empty segments are left out."""
    rows, queries, heads, width = q_BMND.shape
    full = [segment for segment in segments if segment[0].shape[1]]
    arguments = {"Q": q_BMND, "OUT": out, "LOGSUM": total, "M": queries, "scale": scale}
    arguments |= strides("q", q_BMND, "bmn") | strides("o", out, "bmn") | strides("s", total, "bn")
    for index in range(MAX_SEGMENTS):
        keys, values = full[index] if index < len(full) else (None, None)
        arguments |= {
            f"K{index}": keys,
            f"V{index}": values,
            f"L{index}": 0 if keys is None else keys.shape[1],
        }
        arguments |= strides(f"k{index}", keys, "bln") | strides(f"v{index}", values, "bln")
    constants = {"D": width, "SEGMENTS": len(full), "BLOCK_D": power_of_two(width, 16)}
    constants |= {"BLOCK_M": BLOCK_M, "BLOCK_L": BLOCK_L}
    grid = (triton.cdiv(queries, BLOCK_M), heads, rows)
    return Launch("segment_attention", _segment_attention, grid, arguments, constants, warps=8, stages=3)
