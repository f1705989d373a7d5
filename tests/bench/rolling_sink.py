"""Rolling Sink (arXiv 2602.07775) as a memory of the bench alone: the first window's frames for ever.

All frames of a window but the newest blocks are replaced by frames of the very first window, run through
forwards and backwards in turn, at the positions of those they replace. In its released code positions count
on; only distances reach attention, so bounded ids are the same.

R batch rows, S tokens per latent frame, F frames of the bank, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from ...model_patches.attention.positions import PositionPreset
from ...model_patches.attention.sdpa import Attention, sdpa
from ...model_patches.cache.cost import CacheCost
from ...model_patches.cache.format import Cache
from ...model_patches.cache.shapes import CacheShape, KeysValues
from ...model_patches.geometry import Geometry
from ...model_patches.memory.cost import MemoryCost
from ...model_patches.memory.policy import EMPTY, EmptyMemory, Memory, MemoryKeysValues
from ...model_patches.stream.config import StreamConfig
from ...pocket.choices import Choice
from ...pocket.models import PocketRecipe

TAKEN = ("bank", "first", "after")  # in a snapshot


def positions(window_frames: int, block_frames: int = 3) -> PositionPreset:
    """A window of so many latent frames, of which two blocks are the stream's own once it is full."""
    given = window_frames - 2 * block_frames
    name = f"rolling_sink_{window_frames}"
    return PositionPreset(name, 0, window_frames, window_frames - 1, window_frames, memory_frames=given)


@dataclass(frozen=True)
class Bank:
    """Keys before RoPE and values of the first frames, and where the stream is."""

    bank: Tensor  # [layers, 2, R, F S, N, D]
    first: int  # latent frame of the bank's first
    after: int  # latent frame after the newest that is replaced

    def tensors(self) -> dict[str, Tensor]:
        numbers = {"first": torch.tensor(self.first), "after": torch.tensor(self.after)}
        return {"bank": self.bank, **numbers}


@dataclass(frozen=True)
class RollingSink:
    """The bank of one stream, for so many frames of its window and tokens of a frame."""

    given_frames: int
    frame_tokens: int
    name: str = "rolling_sink"

    @property
    def cost(self) -> MemoryCost:
        return MemoryCost(self.given_frames * self.frame_tokens)

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        """A sentence for positions of another window, else None."""
        if preset.memory_in_window and preset.memory_frames == self.given_frames and not preset.sink_frames:
            return None
        return f"Rolling sink: it fills {self.given_frames} frames of a window, not those of {preset.name}."

    def start(self, shape: CacheShape) -> EmptyMemory:
        return EMPTY

    def restore(self, tensors: Mapping[str, Tensor], shape: CacheShape) -> Memory:
        if not tensors:
            return EMPTY
        bank, first, after = (tensors[name] for name in TAKEN)
        return Bank(bank, int(first), int(after))

    def read(self, memory: Memory) -> MemoryKeysValues:
        if not isinstance(memory, Bank):
            return None, None
        seen = partial(self._seen, memory)
        return seen, seen

    def update(
        self, memory: Memory, cache: Cache, evicted: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        if not evicted:
            return memory, cache
        if isinstance(memory, Bank):
            return replace(memory, after=evicted[-1] + 1), cache
        layers = range(cache.shape.layers)
        bank = torch.stack([torch.stack(cache.keys_values(layer, evicted)) for layer in layers])
        return Bank(bank, evicted[0], evicted[-1] + 1), cache

    def recached(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> EmptyMemory:
        return EMPTY

    def spec(self) -> Mapping[str, object]:
        return {"name": self.name, "given_frames": self.given_frames}

    def _seen(self, memory: Bank, layer: int) -> KeysValues:
        """A layer's keys before RoPE and values of the frames in the places of those that left."""
        frames = memory.bank[layer].unflatten(2, (-1, self.frame_tokens))
        since = memory.after - memory.first
        places = range(since - self.given_frames, since)
        keys, values = frames[:, :, [turned(place, frames.shape[2]) for place in places]].flatten(2, 3)
        return keys, values


def turned(place: int, frames: int) -> int:
    """Which of so many frames comes at this place: 0 to the last, the last to 0, and so on."""
    turn, at = divmod(place, frames)
    return frames - 1 - at if turn % 2 else at


@dataclass(frozen=True)
class Placed(PocketRecipe):
    """A recipe at positions that are in no table."""

    positions: PositionPreset | None = None

    def config(self, seed: int = 0, geometry: Geometry | None = None) -> StreamConfig:
        """See `PocketRecipe.config`."""
        config = PocketRecipe.config(self, seed, geometry)
        return config if self.positions is None else replace(config, preset=self.positions)


def placed(chosen: Choice) -> Choice:
    """The same stream with this memory, in a window as long as its sink and window were."""
    recipe, config = chosen.pocket.recipe, chosen.pocket.config()
    at = positions(config.positions.capacity_frames or 0, config.block_frames)
    kept = {each.name: getattr(recipe, each.name) for each in fields(PocketRecipe)}
    pocket = replace(chosen.pocket, recipe=Placed(**kept, positions=at))
    policy = RollingSink(at.memory_frames, config.geometry.frame_tokens)
    return replace(chosen, pocket=pocket, memory=policy)
