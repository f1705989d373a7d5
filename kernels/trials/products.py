"""Trials of kernels that multiply matrices. B rows, L tokens, N heads, D head width, R latent channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..latent_write import latent_write
from ..projections import UpProjections
from ..rebuild import rebuild, rebuild_reference
from ..segment_attention import segment_attention, segment_attention_reference
from ..tiers import Latents, Tiers
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


def latent_write_trial(draw: Draw, sizes: Sizes, dtype: torch.dtype) -> Trial:
    """A sum over all channels, of which 16 bits of the basis count, then codes."""
    tiers = sizes.tiers
    x = draw(sizes.rows, sizes.tokens, sizes.channels, dtype=dtype)
    basis, shift = draw(sizes.channels, tiers.rank), draw(tiers.rank)
    there, down, moved = (draw.there(each) for each in (x, basis, shift))
    codes, all_codes = draw.room(sizes.rows, sizes.tokens, tiers.code_bytes, dtype=torch.int8)
    scales, all_scales = draw.room(sizes.rows, sizes.tokens, tiers.groups, dtype=torch.float16)

    def run(impl: str) -> Outputs:
        latent_write(there, down, moved, tiers, codes, scales, impl)
        return codes, scales

    def judge(outputs: Outputs) -> Errors:
        wide = x.to(WIDE), basis.to(WIDE), shift.to(WIDE)
        want = wide[0] @ wide[1] - wide[2]
        size = wide[0].abs() @ wide[1].abs() + wide[2].abs()
        # the basis as two numbers of x's type loses the square of its rounding
        lost = ((sizes.channels + 4) * SINGLE + half_unit(dtype) ** 2) * size
        parts = zip(tiers.split(*outputs), (8, 4), (0, tiers.wide), (tiers.wide, tiers.narrow), strict=True)
        for (part, steps), bits, start, channels in parts:
            here = slice(start, start + channels)
            yield step_error(part, steps, want[..., here], sizes.group, bits, lost[..., here])

    return Trial(run, judge, (all_codes, all_scales))


def rebuild_trial(coded: bool, shared: bool) -> Build:
    """Latents as codes or numbers; with or without a rotary key that the heads share."""

    def build(draw: Draw, sizes: Sizes, dtype: torch.dtype) -> Trial:
        """A latent rounded to the weights' type, a sum in float32, bias, 1/rms and rotation."""
        given = _Rebuild.drawn(draw, sizes, dtype, coded, shared)
        shape = sizes.rows, sizes.tokens, sizes.heads, sizes.width
        (keys, all_keys), (values, all_values) = (draw.room(*shape, dtype=dtype) for _ in "kv")
        there = given.there(draw)

        def run(impl: str) -> Outputs:
            rebuild(there.latents, there.up, there.table, keys, values, there.inverse, impl)
            return keys, values

        def judge(outputs: Outputs) -> Errors:
            wants = given.exact(torch.empty(2, *shape, dtype=WIDE))
            bound = 3 * half_unit(dtype) + (given.up.key.shape[0] + 10) * SINGLE
            both = zip(outputs, wants, given.magnitudes(sizes.heads), strict=True)
            return [near(got, want, bound * size) for got, want, size in both]

        return Trial(run, judge, (all_keys, all_values))

    return build


@dataclass(frozen=True, slots=True)
class _Rebuild:
    """What is rebuilt, and from what."""

    latents: Latents
    up: UpProjections
    table: Tensor
    inverse: Tensor | None

    @classmethod
    def drawn(cls, draw: Draw, sizes: Sizes, dtype: torch.dtype, coded: bool, shared: bool) -> _Rebuild:
        """Random ones on the CPU."""
        tiers = None if not coded else Tiers(sizes.tiers.rank, 0, sizes.group) if shared else sizes.tiers
        extra = 0 if not shared else sizes.group if sizes.group < sizes.width else 2
        rank = sizes.tiers.rank - extra
        columns = sizes.heads * (sizes.width - extra), sizes.channels
        weights = [draw(rank, column, dtype=dtype) for column in columns]
        biases = [None if shared else draw(column) for column in columns]
        inverse = None if shared else draw(sizes.rows, sizes.tokens, scale=0.1).abs().half() + 0.5
        latents = _latents(draw, sizes, tiers, dtype)
        return cls(
            latents, UpProjections(*weights, *biases), draw.table(sizes.tokens, extra or sizes.width), inverse
        )

    def there(self, draw: Draw) -> _Rebuild:
        """The same on the device."""
        scales, inverse = _on(draw, self.latents.scales), _on(draw, self.inverse)
        latents = Latents(draw.there(self.latents.codes), scales, self.latents.tiers)
        biases = _on(draw, self.up.key_bias), _on(draw, self.up.value_bias)
        up = UpProjections(draw.there(self.up.key), draw.there(self.up.value), *biases)
        return _Rebuild(latents, up, draw.there(self.table), inverse)

    def exact(self, room: Tensor) -> Tensor:
        """Keys and values in float64, written into `room` [2, B, L, N, D]."""
        biases = (None if bias is None else bias.to(WIDE) for bias in (self.up.key_bias, self.up.value_bias))
        up = UpProjections(self.up.key.to(WIDE), self.up.value.to(WIDE), *biases)
        rebuild_reference(self.latents, up, self.table.to(WIDE), room[0], room[1], self.inverse)
        return room

    def magnitudes(self, heads: int) -> tuple[Tensor, Tensor]:
        """The sums of magnitudes that keys and values are made of, float64."""
        c, rank = self.latents.to_float(WIDE).abs(), self.up.key.shape[0]

        def made(weight: Tensor, bias: Tensor | None) -> Tensor:
            product = c[..., :rank] @ weight.to(WIDE).abs()
            return (product if bias is None else product + bias.to(WIDE).abs()).unflatten(-1, (heads, -1))

        k = made(self.up.key, self.up.key_bias)
        if self.inverse is not None:
            k = k * self.inverse.to(WIDE)[..., None, None]
        if c.shape[-1] == rank:
            k = pairs(k)
        else:
            k = torch.cat([k, pairs(c[..., None, rank:]).expand(*k.shape[:-1], -1)], -1)
        return k, made(self.up.value, self.up.value_bias)


def _on(draw: Draw, x: Tensor | None) -> Tensor | None:
    return None if x is None else draw.there(x)


def _latents(draw: Draw, sizes: Sizes, tiers: Tiers | None, dtype: torch.dtype) -> Latents:
    if tiers is None:
        return Latents(draw(sizes.rows, sizes.tokens, sizes.tiers.rank, dtype=dtype))
    codes = torch.empty(sizes.rows, sizes.tokens, tiers.code_bytes, dtype=torch.int8)
    scales = torch.empty(sizes.rows, sizes.tokens, tiers.groups, dtype=torch.float16)
    x = draw(sizes.rows, sizes.tokens, tiers.rank)
    latent_write(x, torch.eye(tiers.rank), torch.zeros(tiers.rank), tiers, codes, scales, "reference")
    return Latents(codes, scales, tiers)


def segment_attention_trial(draw: Draw, sizes: Sizes, dtype: torch.dtype) -> Trial:
    """One softmax over three segments, one of them empty.

    A score's error moves its weight, and the sum of weights, by as much; weights and result are rounded.
    """
    rest, scale = (sizes.heads, sizes.width), sizes.width**-0.5
    q = draw(sizes.rows, sizes.tokens, *rest, dtype=dtype)
    lengths = sizes.tokens + 3, 0, 2 * sizes.tokens
    kept = [[draw(sizes.rows, n, *rest, dtype=dtype) for _ in "kv"] for n in lengths]
    there, segments = draw.there(q), [(draw.there(keys), draw.there(values)) for keys, values in kept]

    def judge(outputs: Outputs) -> Errors:
        wide = [(keys.to(WIDE), values.to(WIDE)) for keys, values in kept]
        want, total = segment_attention_reference(q.to(WIDE), wide, scale)
        sums, _ = segment_attention_reference(q.to(WIDE), [(k, v.abs()) for k, v in wide], scale)
        keys = torch.cat([k for k, _ in wide], 1)
        score = torch.einsum("bmnd,blnd->bnml", q.to(WIDE).abs(), keys.abs()).amax(-1) * scale
        moved, summed = (sizes.width + 8) * SINGLE * (score + 1), (keys.shape[1] + 8) * SINGLE
        bound = 2 * moved.movedim(-1, -2)[..., None] + summed + 2 * half_unit(dtype)
        yield near(outputs[0], want, bound * sums)
        yield near(outputs[1], total, moved + summed + SINGLE * total.abs())

    return Trial(lambda impl: segment_attention(there, segments, scale, impl), judge, ())
