"""Trials of kernels that multiply no matrices. B rows, L tokens, N heads, D head width."""

from __future__ import annotations

import torch
from torch import Tensor

from ..modulate import add_norm_modulate, add_norm_modulate_reference, norm_modulate, norm_modulate_reference
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


def norm_modulate_trial(draw: Draw, sizes: Sizes, dtype: torch.dtype) -> Trial:
    """See `_normed`; vectors of five frames, or of as many as tokens, that the rows share."""
    x = draw(sizes.rows, sizes.tokens, sizes.channels, dtype=dtype, scale=3)
    frames = sizes.tokens if sizes.tokens % 5 else 5
    shift, scale = (draw(1, frames, sizes.channels, dtype=dtype) for _ in range(2))
    tokens, moves, scales = (draw.there(each) for each in (x, shift, scale))

    def judge(outputs: Outputs) -> Errors:
        return [_normed(outputs[0], x.to(WIDE), shift.to(WIDE), scale.to(WIDE))]

    return Trial(lambda impl: (norm_modulate(tokens, moves, scales, 1e-6, impl),), judge, ())


def add_norm_modulate_trial(draw: Draw, sizes: Sizes, dtype: torch.dtype) -> Trial:
    """A product and a sum; see `_normed` for what follows, which begins with the sum as it was stored."""
    x, update = (draw(sizes.rows, sizes.tokens, sizes.channels, dtype=dtype, scale=3) for _ in range(2))
    vectors = [draw(sizes.rows, 1, sizes.channels, dtype=dtype) for _ in range(3)]
    tokens, added = draw.there(x), draw.there(update)
    gains, moves, scales = (draw.there(each) for each in vectors)

    def judge(outputs: Outputs) -> Errors:
        wide, moved, gain, shift, scale = (each.to(WIDE) for each in (x, update, *vectors))
        want, _ = add_norm_modulate_reference(wide, moved, gain, shift, scale, 1e-6)
        yield near(outputs[0], want, (2 * SINGLE + half_unit(dtype)) * (wide.abs() + (moved * gain).abs()))
        yield _normed(outputs[1], outputs[0].to(WIDE), shift, scale)

    return Trial(lambda impl: add_norm_modulate(tokens, added, gains, moves, scales, 1e-6, impl), judge, ())


def _normed(got: Tensor, x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """A mean, a mean of squares, a root, three products and two sums.

    Sums of n numbers in a tree of at most sqrt(n) leaves to a thread are within sqrt(n) units of the sum of
    their magnitudes: the mean's error is part of every channel's.
    """
    want = norm_modulate_reference(x, shift, scale, 1e-6)
    inverse = torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-6)
    normed = (x.abs() + x.abs().mean(-1, keepdim=True)) * inverse
    shift, scale = (each.repeat_interleave(x.shape[1] // each.shape[1], 1) for each in (shift, scale))
    size = normed * (1 + scale).abs() + shift.abs()
    return near(got, want, ((2 * x.shape[-1] ** 0.5 + 8) * SINGLE + half_unit(got.dtype)) * size)
