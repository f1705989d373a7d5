"""Layout of a token's latent channels: the first as int8, the others as int4, each group with one scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .quantize import dequantize


@dataclass(frozen=True, slots=True)
class Tiers:
    """`wide` channels of one byte, then `narrow` channels of half a byte; each group has one scale.

    group: channels, any even number; a power of two from 16 on fills a GPU's blocks.
    """

    wide: int
    narrow: int = 0
    group: int = 64

    def __post_init__(self) -> None:
        if self.group < 2 or self.group % 2 or self.wide % self.group or self.narrow % self.group:
            raise ValueError(
                f"Tiers: {self.wide} int8 and {self.narrow} int4 channels do not divide into groups of "
                f"{self.group}; choose multiples of an even group."
            )
        if min(self.wide, self.narrow) < 0 or self.rank == 0:
            raise ValueError(f"Tiers: {self.wide} int8 and {self.narrow} int4 channels; give one or more.")

    @property
    def rank(self) -> int:
        """Channels of a token."""
        return self.wide + self.narrow

    @property
    def groups(self) -> int:
        """Scales of a token."""
        return self.rank // self.group

    @property
    def code_bytes(self) -> int:
        """Bytes of a token's codes, scales not counted."""
        return self.wide + self.narrow // 2

    def split(self, codes: Tensor, scales: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(int8 codes, scales) and (uint8 pairs of int4, scales): views of a token's bytes."""
        first = self.wide // self.group
        wide, narrow = codes[..., : self.wide], codes[..., self.wide :].view(torch.uint8)
        return (wide, scales[..., :first]), (narrow, scales[..., first:])


@dataclass(frozen=True, slots=True)
class Latents:
    """Latents of B rows of L tokens, as the cache stores them.

    codes: floating point [B, L, rank] without tiers; with tiers int8 [B, L, tiers.code_bytes], the int4 pairs
    as `quantize` packs them. scales: [B, L, tiers.groups], float16 or float32.
    """

    codes: Tensor
    scales: Tensor | None = None
    tiers: Tiers | None = None

    @property
    def rank(self) -> int:
        """Channels of a token."""
        return self.codes.shape[-1] if self.tiers is None else self.tiers.rank

    def check(self, where: str) -> None:
        """ValueError, starting with `where`, for codes or scales that do not fit the tiers."""
        if self.tiers is None:
            if self.codes.ndim != 3 or not self.codes.is_floating_point() or self.scales is not None:
                raise ValueError(
                    f"{where}: latents without tiers must be [B, L, rank] of floating point without scales, "
                    f"got {list(self.codes.shape)} of {self.codes.dtype}."
                )
            return
        check_rows(where, self.tiers, self.codes, self.scales)
        if self.codes.ndim != 3:
            raise ValueError(f"{where}: codes must be [B, L, bytes], got {list(self.codes.shape)}.")

    def to_float(self, dtype: torch.dtype) -> Tensor:
        """The latents [B, L, rank] in a floating dtype, dequantised by torch where they have tiers."""
        if self.tiers is None or self.scales is None:
            return self.codes.to(dtype)
        wide, narrow = self.tiers.split(self.codes, self.scales)
        group = self.tiers.group
        parts = [
            dequantize(codes, scales, group, bits, dtype, impl="reference")
            for (codes, scales), bits in ((wide, 8), (narrow, 4))
            if codes.shape[-1]
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def check_rows(where: str, tiers: Tiers, codes: Tensor, scales: Tensor | None) -> None:
    """ValueError, starting with `where`, for buffers that do not fit the tiers."""
    if codes.dtype != torch.int8 or codes.shape[-1] != tiers.code_bytes:
        raise ValueError(
            f"{where}: {tiers.wide} int8 and {tiers.narrow} int4 channels need codes [..., "
            f"{tiers.code_bytes}] of int8, got {list(codes.shape)} of {codes.dtype}."
        )
    wanted = [*codes.shape[:-1], tiers.groups]
    if scales is None or list(scales.shape) != wanted or not scales.is_floating_point():
        got = "none" if scales is None else f"{list(scales.shape)} of {scales.dtype}"
        raise ValueError(f"{where}: the codes need floating-point scales {wanted}, got {got}.")
