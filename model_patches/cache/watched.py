"""A cache around another, which answers what the one around it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .format import Cache
from .shapes import CacheShape, KeysValues


@dataclass(frozen=True, slots=True)
class Around:
    """All of `format.Cache` that a watching cache leaves to the one it watches."""

    inner: Cache

    @property
    def shape(self) -> CacheShape:
        """The sizes it was made for."""
        return self.inner.shape

    @property
    def frames(self) -> tuple[int, ...]:
        """Latent frames it holds, rising."""
        return self.inner.frames

    @property
    def bytes(self) -> int:
        """Bytes of its frames."""
        return self.inner.bytes

    @property
    def table(self) -> tuple[int, ...]:
        """Latent frame in each slot."""
        return self.inner.table

    def tensors(self) -> Mapping[str, Tensor]:
        """What a snapshot would store."""
        return self.inner.tensors()

    def keys_values(self, layer: int, frames: tuple[int, ...]) -> KeysValues:
        """Keys and values of these frames."""
        return self.inner.keys_values(layer, frames)
