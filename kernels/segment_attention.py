"""Attention over several segments of keys, with the log-sum-exp that merges partial results.

B rows, M queries, L keys, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .dispatch import uses_triton
from .segments import MAX_SEGMENTS, Segment


def segment_attention(
    q_BMND: Tensor, segments: Sequence[Segment], scale: float | None = None, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(softmax(q K^T scale) V [B, M, N, D], log-sum-exp of the scores float32 [B, N, M]).

    The keys are those of one to three segments, in separate tensors, at least one key in all. scale: of q
    K^T, None: 1/sqrt(D). Sums are float32 (float64 for float64); the result has q's dtype.
    No mask: every query sees every key.
    """
    _check(q_BMND, segments)
    factor = q_BMND.shape[-1] ** -0.5 if scale is None else scale
    tensors = [tensor for segment in segments for tensor in segment]
    if uses_triton("segment_attention", impl, q_BMND, *tensors, multiplies=q_BMND):
        from ._triton.segment_attention import segment_attention_triton

        return segment_attention_triton(q_BMND, segments, factor)
    return segment_attention_reference(q_BMND, segments, factor)


def segment_attention_reference(
    q_BMND: Tensor, segments: Sequence[Segment], scale: float
) -> tuple[Tensor, Tensor]:
    """One softmax over all keys, head by head, so that memory holds one matrix of scores."""
    wide = torch.promote_types(q_BMND.dtype, torch.float32)
    rows, queries, heads, _ = q_BMND.shape
    out, total = torch.empty_like(q_BMND), q_BMND.new_empty(rows, heads, queries, dtype=wide)
    for head in range(heads):
        keys = torch.cat([k[:, :, head] for k, _ in segments], 1).to(wide)
        values = torch.cat([v[:, :, head] for _, v in segments], 1).to(wide)
        scores = q_BMND[:, :, head].to(wide) @ keys.mT * scale
        total[:, head] = scores.logsumexp(-1)
        out[:, :, head] = (scores - total[:, head, :, None]).exp() @ values
    return out, total


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(result, log-sum-exp) over all keys, from those over disjoint subsets; shapes as above.

    Each part weighs by its share of the sum of exponentials (arXiv:2205.14135, section 3.1).
    """
    totals = torch.stack([log_sum for _, log_sum in parts])
    total = totals.logsumexp(0)
    shares = (totals - total).exp().movedim(-1, -2)[..., None]
    out = sum(part.to(shares.dtype) * share for (part, _), share in zip(parts, shares, strict=True))
    assert isinstance(out, Tensor)
    return out.to(parts[0][0].dtype), total


def _check(q_BMND: Tensor, segments: Sequence[Segment]) -> None:
    if not 1 <= len(segments) <= MAX_SEGMENTS:
        raise ValueError(
            f"segment_attention: takes 1 to {MAX_SEGMENTS} segments, got {len(segments)}; join some."
        )
    rows, _, heads, width = q_BMND.shape
    for keys, values in segments:
        if keys.ndim != 4 or keys.shape != values.shape or keys.shape[::2] != (rows, heads):
            raise ValueError(
                f"segment_attention: queries {list(q_BMND.shape)} need keys and values [{rows}, L, {heads}, "
                f"{width}], got {list(keys.shape)} and {list(values.shape)}."
            )
        if keys.shape[3] != width or not keys.dtype == values.dtype == q_BMND.dtype:
            raise ValueError(
                f"segment_attention: queries of width {width} and {q_BMND.dtype} need keys and values of "
                f"the same, got {keys.shape[3]} and {keys.dtype}, {values.dtype}."
            )
    if not any(keys.shape[1] for keys, _ in segments):
        raise ValueError("segment_attention: no segment has a key; a softmax needs at least one.")
