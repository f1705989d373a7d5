"""What a trial of a kernel is made of: sizes, random tensors from one seed, bounds of the arithmetic.

SINGLE bounds each operation in float32, a whole unit in the last place, as tensor cores cut sums off where
torch rounds; `half_unit` what storing a result in its dtype rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..quantize import LARGEST, dequantize_reference
from ..tiers import Tiers

SINGLE = 2.0**-23
WIDE = torch.float64
Outputs = tuple[Tensor, ...]
Errors = Iterable[tuple[Tensor, Tensor]]  # (distance from float64, the largest allowed), number by number


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a call. group: channels of a scale; groups: of int8 latents, and as many of int4."""

    rows: int
    tokens: int
    heads: int
    width: int
    group: int
    groups: int

    @property
    def channels(self) -> int:
        """Channels of a token."""
        return self.heads * self.width

    @property
    def tiers(self) -> Tiers:
        """Latents of half int8, half int4 channels."""
        return Tiers(self.group * self.groups, self.group * self.groups, self.group)


@dataclass(frozen=True, slots=True)
class Trial:
    """run: calls the operation with an `impl`. judge: tells its outputs, brought to the CPU, from the truth.

    outputs: where `run` writes; beyond each lies a row of NaN, or of a byte that no code has.
    """

    run: Callable[[str], Outputs]
    judge: Callable[[Outputs], Errors]
    buffers: Sequence[Tensor]  # the whole of each buffer, its last token not part of the output


Build = Callable[["Draw", Sizes, torch.dtype], Trial]


class Draw:
    """Random tensors on the CPU from one seed, and buffers for results."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._generator = torch.Generator().manual_seed(20)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        """Normal numbers times `scale`, rounded to dtype, on the CPU."""
        return (torch.randn(shape, generator=self._generator) * scale).to(dtype)

    def table(self, tokens: int, width: int) -> Tensor:
        """(cos, sin) [tokens, width/2, 2] of random angles."""
        angles = self(tokens, width // 2, scale=20).to(WIDE)
        return torch.stack([angles.cos(), angles.sin()], -1).float()

    def room(self, rows: int, tokens: int, *rest: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(buffer for results, the whole it is part of, one token longer) on the device."""
        whole = torch.full((rows, tokens + 1, *rest), _mark(dtype), dtype=dtype, device=self.device)
        return whole[:, :tokens], whole

    def there(self, tensor: Tensor) -> Tensor:
        """The tensor on the device."""
        return tensor.to(self.device)


def overflowed(trial: Trial) -> bool:
    """Whether something was written behind the results."""
    return any(not bool(_is_mark(whole[:, -1].cpu()).all()) for whole in trial.buffers)


def _mark(dtype: torch.dtype) -> float | int:
    # codes that quantising never makes
    return {torch.int8: -128, torch.uint8: 0xF0}.get(dtype, float("nan"))


def _is_mark(x: Tensor) -> Tensor:
    return x.isnan() if x.is_floating_point() else x == _mark(x.dtype)


def near(got: Tensor, want: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of each number from the float64 it stands for, with its bound."""
    return (got.to(WIDE) - want).abs(), bound


def pairs(size: Tensor) -> Tensor:
    """Both magnitudes of a pair of channels, for each of them: a rotation mixes the two."""
    pairs = size.unflatten(-1, (-1, 2))
    return pairs.sum(-1, keepdim=True).expand_as(pairs).flatten(-2)


def half_unit(dtype: torch.dtype) -> float:
    """What rounding a number to the dtype moves it by, of its own size."""
    return torch.finfo(dtype).eps / 2


def step_error(
    codes: Tensor, scales: Tensor, want: Tensor, group: int, bits: int, before: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Distance of what the codes stand for; before: that of the numbers that were coded."""
    room, top = torch.empty(want.shape, dtype=WIDE), LARGEST[bits]
    dequantize_reference(codes, scales, group, bits, room)
    step = scales.to(WIDE).repeat_interleave(group, -1)
    stored = torch.finfo(scales.dtype).eps
    return near(room, want, step * (0.5 + top * (stored + SINGLE)) + 2 * before)
