"""Trials of kernels that multiply no matrices. B rows, L tokens, N heads, D head width."""

from __future__ import annotations

import torch

from ..norm_rope import norm_rope, norm_rope_reference
from ..quantize import dequantize, dequantize_reference, quantize
from ..rope import rotate, rotate_reference
from .trial import (
    SINGLE,
    WIDE,
    Build,
    Draw,
    Errors,
    Outputs,
    Sizes,
    Trial,
    half_unit,
    near,
    pairs,
    step_error,
)


def rotate_trial(draw: Draw, sizes: Sizes, dtype: torch.dtype) -> Trial:
    """Two products and their sum."""
    x = draw(sizes.rows, sizes.tokens, sizes.heads, sizes.width, dtype=dtype)
    table = draw.table(sizes.tokens, sizes.width)
    there, angles, (out, whole) = draw.there(x), draw.there(table), draw.room(*x.shape, dtype=dtype)

    def judge(outputs: Outputs) -> Errors:
        want = rotate_reference(x.to(WIDE), table.to(WIDE))
        return [near(outputs[0], want, (3 * SINGLE + half_unit(dtype)) * pairs(x.to(WIDE).abs()))]

    return Trial(lambda impl: (rotate(there, angles, impl, out),), judge, (whole,))


def norm_rope_trial(draw: Draw, sizes: Sizes, dtype: torch.dtype) -> Trial:
    """A mean of squares, a root, two products and a rotation.

    Squares are positive: a sum of n of them in a tree of at most sqrt(n) leaves to a thread is within
    sqrt(n) units, and the root halves that.
    """
    x = draw(sizes.rows, sizes.tokens, sizes.heads, sizes.width, dtype=dtype, scale=3)
    gain, table = draw(sizes.channels, dtype=dtype), draw.table(sizes.tokens, sizes.width)
    there, gains, angles = (draw.there(each) for each in (x, gain, table))
    out, whole = draw.room(*x.shape, dtype=dtype)

    def judge(outputs: Outputs) -> Errors:
        wide, room = (x.to(WIDE), gain.to(WIDE), table.to(WIDE)), torch.empty(x.shape, dtype=WIDE)
        want = norm_rope_reference(*wide, 1e-6, None, room)
        inverse = torch.rsqrt(wide[0].square().mean((-2, -1), keepdim=True) + 1e-6)
        size = pairs((wide[0] * inverse * wide[1].view(x.shape[2:])).abs())
        return [near(outputs[0], want, ((sizes.channels**0.5 + 8) * SINGLE + half_unit(dtype)) * size)]

    return Trial(lambda impl: (norm_rope(there, gains, angles, 1e-6, None, out, impl),), judge, (whole,))


def quantize_trial(bits: int) -> Build:
    """Codes of that many bits."""

    def build(draw: Draw, sizes: Sizes, dtype: torch.dtype) -> Trial:
        """Half a step, what storing the scale rounds, and the division."""
        x = draw(sizes.rows, sizes.tokens, sizes.tiers.rank, dtype=dtype)
        there, code = draw.there(x), torch.int8 if bits == 8 else torch.uint8
        codes, all_codes = draw.room(sizes.rows, sizes.tokens, x.shape[-1] * bits // 8, dtype=code)
        scales, all_scales = draw.room(sizes.rows, sizes.tokens, sizes.tiers.groups, dtype=torch.float16)

        def judge(outputs: Outputs) -> Errors:
            codes, scales = outputs
            return [step_error(codes, scales, x.to(WIDE), sizes.group, bits, 0.0)]

        return Trial(
            lambda impl: quantize(there, sizes.group, bits, codes, scales, impl),
            judge,
            (all_codes, all_scales),
        )

    return build


def dequantize_trial(bits: int) -> Build:
    """Numbers of codes of that many bits."""

    def build(draw: Draw, sizes: Sizes, dtype: torch.dtype) -> Trial:
        """One product, exact in float32."""
        x = draw(sizes.rows, sizes.tokens, sizes.tiers.rank)
        codes, scales = quantize(x, sizes.group, bits, impl="reference")
        there, steps = draw.there(codes), draw.there(scales)
        out, whole = draw.room(*x.shape, dtype=dtype)

        def judge(outputs: Outputs) -> Errors:
            want = torch.empty(x.shape, dtype=WIDE)
            dequantize_reference(codes, scales, sizes.group, bits, want)
            return [near(outputs[0], want, (SINGLE + half_unit(dtype)) * want.abs())]

        return Trial(
            lambda impl: (dequantize(there, steps, sizes.group, bits, dtype, out, impl),), judge, (whole,)
        )

    return build
