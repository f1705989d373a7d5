"""Which channels of a head turn with a token's place, and how fast: data that a model may carry."""

from __future__ import annotations

from dataclasses import dataclass

THETA = 10000.0


def axis_channels(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that turn with time, row and column (Wan 2.1's split: 44, 42, 42 of 128)."""
    if head_dim < 6 or head_dim % 2:
        raise ValueError(f"RoPE: three axes need an even head width of 6 or more, got {head_dim}.")
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def axis_rates(channels: int) -> tuple[float, ...]:
    """Radians per step of the pairs of one axis: 10000^(-2i / channels) (RoFormer, arXiv:2104.09864)."""
    return tuple(THETA ** (-i / channels) for i in range(0, channels, 2))


@dataclass(frozen=True, slots=True)
class RopeLayout:
    """Heads whose leading channels stand still and whose other pairs turn at given rates.

    A head is [still | time pairs | row pairs | column pairs]; rates are radians per latent frame, token row
    and token column. Models without a layout turn whole heads at Wan's rates.
    """

    still: int  # leading channels of a head that do not turn
    time: tuple[float, ...]
    row: tuple[float, ...]
    column: tuple[float, ...]

    def __post_init__(self) -> None:
        for axis in ("time", "row", "column"):
            object.__setattr__(self, axis, tuple(float(rate) for rate in getattr(self, axis)))
        if self.still < 0 or self.still % 2 or not self.turned:
            raise ValueError(
                f"RopeLayout: {self.still} still channels and {self.turned} turned ones; the still ones must "
                f"be an even number of 0 or more, and at least one pair must turn."
            )

    @property
    def turned(self) -> int:
        """Channels of a head that turn: what a key shared by all heads is wide."""
        return 2 * (len(self.time) + len(self.row) + len(self.column))

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.still + self.turned

    @staticmethod
    def truncated(head_dim: int, turned: int) -> RopeLayout:
        """The fastest of the whole head's rates on each axis, as many as Wan's split of `turned` gives.

        128 and 32 make VideoMLA's (6, 5, 5) pairs as its text has them (arXiv 2605.30351).
        """
        return RopeLayout._of(head_dim, turned, axis_channels(head_dim))

    @staticmethod
    def derived(head_dim: int, turned: int) -> RopeLayout:
        """Rates made anew for `turned` channels, as its author's earlier public prototype had them."""
        return RopeLayout._of(head_dim, turned, axis_channels(turned))

    @staticmethod
    def _of(head_dim: int, turned: int, source: tuple[int, int, int]) -> RopeLayout:
        if turned > head_dim:
            raise ValueError(f"RopeLayout: {turned} turned channels do not fit a head of {head_dim}.")
        wanted = axis_channels(turned)
        time, row, column = (
            axis_rates(whole)[: part // 2] for whole, part in zip(source, wanted, strict=True)
        )
        return RopeLayout(head_dim - turned, time, row, column)


BANDS = {"truncated": RopeLayout.truncated, "derived": RopeLayout.derived}


def rotary_channels(layout: RopeLayout, head_dim: int) -> list[int]:
    """Channels of a dense head that turn at the layout's rates or, where none does, at the nearest."""
    indices: list[int] = []
    offset = 0
    axes = (layout.time, layout.row, layout.column)
    for wanted, channels in zip(axes, axis_channels(head_dim), strict=True):
        rates = dict(enumerate(axis_rates(channels)))
        for rate in wanted:
            nearest = min(rates, key=lambda i: abs(rates[i] - rate))
            del rates[nearest]
            indices += [offset + 2 * nearest, offset + 2 * nearest + 1]
        offset += channels
    return indices
