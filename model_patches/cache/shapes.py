"""The sizes that caches share, and which of their frames stay exact.

R batch rows, L tokens, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..arch.rotary import RopeLayout

KeysValues = tuple[Tensor, Tensor]  # keys before RoPE and values [R, L, N, D]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Sizes that all formats share."""

    layers: int
    rows: int  # batch rows: streams side by side, times 2 with guidance
    grid_height: int  # tokens
    grid_width: int  # tokens
    heads: int
    head_dim: int
    rope: RopeLayout | None = None  # which channels of a head turn; None: all, at Wan's rates
    memory_tokens: int = 0  # a read has room for, beside the frames

    def __post_init__(self) -> None:
        if isinstance(self.rope, Mapping):  # as a snapshot has it
            object.__setattr__(self, "rope", RopeLayout(**self.rope))

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.grid_height * self.grid_width


@dataclass(frozen=True, slots=True)
class Exact:
    """Frames that a lossy format keeps as they are beside what it keeps of every frame."""

    sink: int = 0  # first latent frames of the stream
    newest: int = 0  # last latent frames that were committed

    def __post_init__(self) -> None:
        if min(self.sink, self.newest) < 0:
            raise ValueError(
                f"Cache: {self.sink} sink frames and {self.newest} newest frames cannot be kept exact; both "
                f"are latent frames, 0 or more."
            )

    @property
    def slots(self) -> int:
        """Frames there must be room for: the newest that a block reads, and those it will leave."""
        return self.sink + 2 * self.newest

    def of(self, frames: tuple[int, ...]) -> tuple[int, ...]:
        """Those of these frames, rising."""
        first = max(0, len(frames) - self.newest)
        return tuple(frame for at, frame in enumerate(frames) if frame < self.sink or at >= first)


NO_EXACT = Exact()
