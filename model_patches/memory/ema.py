"""A sink that slowly takes in what leaves the window (Reward Forcing's EMA-sink, its released code).

Whenever frames are evicted, keys before RoPE and values of the sink become 0.999 of what they were and 0.001
of the evicted ones, layer by layer and token by token. Nothing is trained and nothing is added to attention.
A cache of VideoMLA's latents folds those: keys and values are linear in them.
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
    """Frame f of the stream goes into sink frame f modulo the sink's length, as blocks of three do there."""

    sink_frames: int = 3
    keep: float = 0.999  # share of the sink that stays at an eviction
    name: str = "ema"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.keep) and 0 < self.keep < 1):
            raise ValueError(
                f"Memory ema: a share of {self.keep} of the sink is to stay at each eviction; give more than "
                f"0 and less than 1, published is 0.999."
            )

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        """A sentence for positions without such a sink, and for a cache that rounds it."""
        if preset.sink_frames != self.sink_frames or preset.window_frames is None:
            return (
                f"Memory ema: it folds what leaves the window into {self.sink_frames} sink frames, and "
                f"position preset {preset.name} has {preset.sink_frames} and "
                f"{'no window' if preset.window_frames is None else 'a window'}; take a preset with a sink "
                f"and a window, such as reward_forcing."
            )
        if not cost.lossless and cost.exact.sink < self.sink_frames:
            return (
                f"Memory ema: the sink takes in a thousandth at a time, and cache format {cost.name} keeps "
                f"{self.sink_frames - cost.exact.sink} of its {self.sink_frames} frames rounded; keep "
                f"{self.sink_frames} sink frames exact in that cache, or take format dense, or mla for "
                f"VideoMLA's weights."
            )
        return None

    def update(
        self, memory: Memory, cache: Cache, left: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        """The sink takes in the frames that left."""
        pairs = [(frame % self.sink_frames, frame) for frame in left]
        return memory, cache.fold(pairs, 1 - self.keep) if pairs else cache

    def spec(self) -> Mapping[str, object]:
        """Share and sink."""
        return {"name": self.name, "sink_frames": self.sink_frames, "keep": self.keep}


@dataclass(frozen=True)
class EmaKind(MemoryKind):
    """See `EmaSink`."""

    def preset(self, name: str, source: Source | None) -> str:
        """Those it was published with where the model's have no sink."""
        return name if PRESETS[name].sink_frames else "reward_forcing"

    def build(
        self,
        contract: Contract,
        device: torch.device,
        source: Source | None,
        options: Mapping[str, bool | float],
    ) -> EmaSink:
        """Of the positions' sink."""
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
