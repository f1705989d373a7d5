"""A sink as exponential moving average of evicted frames (Reward Forcing's EMA-sink, its released code).

At each eviction, keys before RoPE and values of the sink become 0.999 of themselves plus 0.001 of the evicted
ones, layer by layer and token by token. There is no training and no additional token in attention. A cache
of VideoMLA's latents blends those: keys and values are linear in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..attention.positions import PRESETS, PositionPreset
from ..attention.sdpa import Attention, sdpa
from ..cache.cost import CacheCost
from ..cache.format import Cache
from ..cache.shapes import CacheShape
from .kind import Contract, MemoryKind, Option, Source
from .policy import Memory, Stateless


@dataclass(frozen=True, slots=True)
class EmaSink(Stateless):
    """Blends evicted frame f into sink frame f modulo the sink's length, as blocks of three do there."""

    sink_frames: int = 3
    keep: float = 0.999  # share of the sink that remains at an eviction
    name: str = "ema"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.keep) and 0 < self.keep < 1):
            raise ValueError(
                f"Memory ema: the share of the sink that remains at each eviction is {self.keep}; give more "
                f"than 0 and less than 1, published is 0.999."
            )

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        """A sentence for positions without such a sink or for a cache that rounds it, else None."""
        if preset.sink_frames != self.sink_frames or preset.window_frames is None:
            return (
                f"Memory ema: it blends evicted frames into {self.sink_frames} sink frames, and "
                f"position preset {preset.name} has {preset.sink_frames} and "
                f"{'no window' if preset.window_frames is None else 'a window'}; take a preset with a sink "
                f"and a window, such as reward_forcing."
            )
        if not cost.lossless and cost.exact.sink < self.sink_frames:
            return (
                f"Memory ema: each step changes the sink a little, and cache format {cost.name} keeps "
                f"{self.sink_frames - cost.exact.sink} of its {self.sink_frames} frames rounded; keep "
                f"{self.sink_frames} sink frames exact in that cache, or take format dense, or mla for "
                f"VideoMLA's weights."
            )
        return None

    def update(
        self, memory: Memory, cache: Cache, evicted: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        pairs = [(frame % self.sink_frames, frame) for frame in evicted]
        return memory, cache.fold(pairs, 1 - self.keep) if pairs else cache

    def spec(self) -> Mapping[str, object]:
        return {"name": self.name, "sink_frames": self.sink_frames, "keep": self.keep}


@dataclass(frozen=True)
class EmaKind(MemoryKind):
    """See `EmaSink`."""

    def preset(self, name: str, source: Source | None) -> str:
        return name if PRESETS[name].sink_frames else "reward_forcing"

    def build(
        self,
        contract: Contract,
        device: torch.device,
        source: Source | None,
        options: Mapping[str, bool | float],
    ) -> EmaSink:
        return EmaSink(contract.positions.sink_frames, self.option("ema_keep", options))


KIND = EmaKind(
    "ema",
    "what leaves the window is folded into the first frames bit by bit (Reward Forcing); no file",
    options=(
        Option(
            "ema_keep",
            0.999,
            "share of a first frame that stays each time it takes in one that left the window, without unit; "
            "published is 0.999.",
            least=0.5,
            most=0.9999,
            step=0.0001,
        ),
    ),
)
