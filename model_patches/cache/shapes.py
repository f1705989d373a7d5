"""Sizes of a cache, and the frames that a lossy format stores exactly.

R batch rows, L tokens, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..arch.rotary import RopeLayout

KeysValues = tuple[Tensor, Tensor]  # keys before RoPE and values [R, L, N, D]
MemorySeen = KeysValues | Callable[[int], KeysValues]  # one for all layers, or each layer's own


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Sizes that all formats share."""

    layers: int
    rows: int  # batch rows: streams in the batch, times 2 with guidance
    grid_height: int  # tokens
    grid_width: int  # tokens
    heads: int
    head_dim: int
    rope: RopeLayout | None = None  # rotary channels of a head; None: all, at Wan's frequencies
    memory_tokens: int = 0  # of the memory, in the workspace besides the frames

    def __post_init__(self) -> None:
        if isinstance(self.rope, Mapping):  # from a snapshot's JSON
            object.__setattr__(self, "rope", RopeLayout(**self.rope))

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.grid_height * self.grid_width


@dataclass(frozen=True, slots=True)
class Exact:
    """Latent frames that a lossy format stores as dense keys and values besides."""

    sink: int = 0  # first latent frames of the stream
    newest: int = 0  # last committed latent frames

    def __post_init__(self) -> None:
        if min(self.sink, self.newest) < 0:
            raise ValueError(
                f"Cache: {self.sink} sink frames and {self.newest} newest frames cannot be exact; give both "
                f"as 0 or more latent frames."
            )

    @property
    def slots(self) -> int:
        """Frames to allocate: the sink, the newest that a block reads, and the newest it commits."""
        return self.sink + 2 * self.newest

    def of(self, frames: tuple[int, ...]) -> tuple[int, ...]:
        """The exact ones of these ascending frames."""
        first = max(0, len(frames) - self.newest)
        return tuple(frame for at, frame in enumerate(frames) if frame < self.sink or at >= first)


NO_EXACT = Exact()
