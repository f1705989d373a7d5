"""Two running averages of what left the window, keys and values of every layer (MemRoPE, arXiv 2603.12513).

Keys are averaged before RoPE, so that no position is in them, and turned at the memory's ids when read. A
block's evicted frames enter as one mean: over all their tokens, shown as every token of a frame, or, position
by position, over the frames alone. The long average goes 0.01 of the way to it, the short one 0.1. Order of
the released code: the mean enters before the block that evicts, and all calls of that block see it. There is
no memory until frames are evicted; of the first ones the oldest, in whose place the averages come, enter
neither.

R batch rows, S tokens per latent frame, T tokens kept of a frame (1 or S), N heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..attention.positions import PositionPreset
from ..attention.sdpa import Attention, sdpa
from ..cache.cost import CacheCost
from ..cache.format import Cache
from ..cache.shapes import CacheShape, KeysValues
from .cost import MemoryCost
from .kind import Contract, MemoryKind, Option, Source
from .policy import EMPTY, EmptyMemory, Memory, MemoryKeysValues

FRAMES = 2  # latent frames that are shown: the long average and the short one
NAME = "averages"  # in a snapshot
# times the short share, by position: where least and most changed (the released code, `ema_adaptive`)
LEAST, MOST = 0.1, 5.0
EPS = 1e-8


@dataclass(frozen=True, slots=True)
class Averages:
    """Both averages [layers, 2 (long, short), 2 (keys, values), R, T, N, D]."""

    both: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {NAME: self.both}


@dataclass(frozen=True, slots=True)
class MemRope:
    """The averages of one stream, for frames of so many tokens and its compute dtype."""

    frame_tokens: int
    dtype: torch.dtype
    long_share: float = 0.01  # of the mean that enters, in the average after it
    short_share: float = 0.1
    per_position: bool = False  # the short share grows with what changed at a position
    name: str = "memrope"

    def __post_init__(self) -> None:
        for which, share in (("long", self.long_share), ("short", self.short_share)):
            if not (math.isfinite(share) and 0 < share < 1):
                raise ValueError(
                    f"Memory memrope: the share of new frames in the {which} average is {share}; give more "
                    f"than 0 and less than 1, published are 0.01 for the long and 0.1 for the short one."
                )

    @property
    def cost(self) -> MemoryCost:
        return cost_of(self.frame_tokens, self.per_position)

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        """A sentence for positions without ids for two latent frames, or another picture size, else None."""
        if preset.memory_frames != FRAMES:
            return (
                f"Memory memrope: it shows {FRAMES} latent frames, and position preset {preset.name} has ids "
                f"for {preset.memory_frames}; take preset memrope."
            )
        if shape.frame_tokens != self.frame_tokens:
            return (
                f"Memory memrope: it was made for latent frames of {self.frame_tokens} tokens, the stream's "
                f"have {shape.frame_tokens}; make it for the stream's picture size."
            )
        return None

    def start(self, shape: CacheShape) -> EmptyMemory:
        return EMPTY

    def restore(self, tensors: Mapping[str, Tensor], shape: CacheShape) -> Memory:
        if not tensors:
            return EMPTY
        if set(tensors) != {NAME}:
            raise ValueError(f"averages of a memory cannot be {', '.join(sorted(tensors))}")
        both, sizes = tensors[NAME], self._sizes(shape)
        if both.shape != sizes or both.dtype != self.kept_dtype:
            raise ValueError(
                f"{NAME} is {both.dtype} {list(both.shape)}, not {self.kept_dtype} {list(sizes)}"
            )
        return Averages(both)

    def read(self, memory: Memory) -> MemoryKeysValues:
        both = _averages(memory)
        seen = None if both is None else partial(_seen, both, self.frame_tokens, self.dtype)
        return seen, seen

    def update(
        self, memory: Memory, cache: Cache, evicted: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[Memory, Cache]:
        both = _averages(memory)
        entering = evicted if both is not None else evicted[FRAMES:]
        if not entering:
            return memory, cache
        # written in place: a card holds the state before and this one, and no third
        after = torch.empty(self._sizes(cache.shape), dtype=self.kept_dtype, device=cache.device)
        for layer, into in enumerate(after):
            mean = self._mean(cache.keys_values(layer, entering))
            old = None if both is None else both[layer].to(self._wide)
            into.copy_(mean if old is None else self._moved(old, mean))
        return Averages(after), cache

    def recached(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> EmptyMemory:
        """No memory: it begins anew with those of these frames that are evicted next."""
        return EMPTY

    def spec(self) -> Mapping[str, object]:
        return {
            "name": self.name,
            "long_share": self.long_share,
            "short_share": self.short_share,
            "per_position": self.per_position,
        }

    @property
    def kept_dtype(self) -> torch.dtype:
        """Of the averages: steps of a hundredth would be lost to bfloat16, frames' worth of tokens are too
        large for more."""
        return self.dtype if self.per_position else self._wide

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def _sizes(self, shape: CacheShape) -> tuple[int, ...]:
        """Of the averages; see `Averages`."""
        tokens = self.frame_tokens if self.per_position else 1
        return (shape.layers, FRAMES, 2, shape.rows, tokens, shape.heads, shape.head_dim)

    def _mean(self, pair: KeysValues) -> Tensor:
        """[2 (keys, values), R, T, N, D] of evicted frames."""
        if self.per_position:
            frames = (x.unflatten(1, (-1, self.frame_tokens)) for x in pair)
            return torch.stack([x.mean(1, dtype=self._wide) for x in frames])
        return torch.stack([x.mean(1, keepdim=True, dtype=self._wide) for x in pair])

    def _moved(self, old: Tensor, mean: Tensor) -> Tensor:
        """A layer's averages [2 (long, short), 2, R, T, N, D] with the mean [2, R, T, N, D] in them."""
        long, short = old
        share: Tensor | float = self.short_share  # a tensor of it would be copied to a card, layer by layer
        if self.per_position:
            change_RT = (mean[0] - short[0]).norm(dim=-1).mean(-1)
            least, most = LEAST * self.short_share, MOST * self.short_share
            change_RT = change_RT / (change_RT.amax(-1, keepdim=True) + EPS)
            share = (least + change_RT * (most - least)).clamp(max=1)[..., None, None]
        return torch.stack((long.lerp(mean, self.long_share), short.lerp(mean, share)))


def cost_of(frame_tokens: int, per_position: bool) -> MemoryCost:
    """The cost of the averages for frames of so many tokens."""

    def state(shape: CacheShape, dtype: torch.dtype) -> int:
        kept = dtype if per_position else torch.promote_types(dtype, torch.float32)
        tokens = frame_tokens if per_position else 1
        return shape.layers * FRAMES * 2 * _bytes(shape, tokens, kept)

    def device_bytes(shape: CacheShape, dtype: torch.dtype) -> int:
        """Of the state before an update and after it, and of what one layer sees."""
        return 2 * state(shape, dtype) + FRAMES * 2 * _bytes(shape, frame_tokens, dtype)

    return MemoryCost(FRAMES * frame_tokens, device_bytes, state)


def _bytes(shape: CacheShape, tokens: int, dtype: torch.dtype) -> int:
    return shape.rows * tokens * shape.heads * shape.head_dim * dtype.itemsize


@dataclass(frozen=True)
class MemRopeKind(MemoryKind):
    """See `MemRope`."""

    def preset(self, name: str, source: Source | None) -> str:
        return "memrope"

    def cost(
        self, contract: Contract, source: Source | None, options: Mapping[str, bool | float]
    ) -> MemoryCost:
        return cost_of(contract.geometry.frame_tokens, bool(self.option("memrope_per_position", options)))

    def build(
        self,
        contract: Contract,
        device: torch.device,
        source: Source | None,
        options: Mapping[str, bool | float],
    ) -> MemRope:
        return MemRope(
            contract.geometry.frame_tokens,
            contract.dtype,
            self.option("memrope_long", options),
            self.option("memrope_short", options),
            bool(self.option("memrope_per_position", options)),
        )


KIND = MemRopeKind(
    "memrope",
    "two running averages of what left the window, a slow and a quick one, are shown to every layer "
    "(MemRoPE); no file",
    options=(
        Option(
            "memrope_long",
            0.01,
            "share of the frames that leave in the slow average, each time, without unit; published is 0.01.",
            least=0.001,
            most=0.5,
            step=0.001,
        ),
        Option(
            "memrope_short",
            0.1,
            "share of the frames that leave in the quick average, each time, without unit; published is 0.1.",
            least=0.001,
            most=0.5,
            step=0.001,
        ),
        Option(
            "memrope_per_position",
            False,
            "averages every place of the picture by itself, the quick one faster where more changed; takes "
            "as much memory as two latent frames of a dense cache, four while it is renewed.",
        ),
    ),
)


def _averages(memory: Memory) -> Tensor | None:
    if isinstance(memory, EmptyMemory):
        return None
    assert isinstance(memory, Averages), f"memory memrope needs its own state, got: {memory}"
    return memory.both


def _seen(both: Tensor, frame_tokens: int, dtype: torch.dtype, layer: int) -> KeysValues:
    """A layer's keys before RoPE and values [R, 2 S, N, D]: the long average, then the short one."""
    sides = both[layer].to(dtype).transpose(0, 1)  # [2 (keys, values), 2 (long, short), R, T, N, D]
    keys, values = (torch.cat([x.expand(-1, frame_tokens, -1, -1) for x in side], 1) for side in sides)
    return keys, values
