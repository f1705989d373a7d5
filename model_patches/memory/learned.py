"""Echo-Infinity's memory (arXiv 2606.04527): a state of a few frames' size that reads what leaves the window.

Order of its released code: when a block is to be made whose frames push older ones out, those give the last
layer's keys and values of their clean pass to the encoder, once; the block's first call still sees the memory
before that, every later call and the clean pass the one after it. Before the first eviction there is none.

R batch rows, M memory tokens, C channels of the model, N heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.rope import rotate
from ..arch.mla import MlaAttention
from ..arch.tree import DiTTree
from ..arch.wan import WanModel
from ..attention.positions import PositionPreset
from ..attention.rope import rope_table
from ..attention.sdpa import Attention, sdpa
from ..cache.cost import CacheCost
from ..cache.format import Cache
from ..cache.shapes import CacheShape
from .cost import MemoryCost
from .coupling import training_of, why_not
from .encoder import EncoderConfig, MemoryEncoder
from .kind import Contract, MemoryKind, Option, Source
from .load import MemoryFile, load_memory
from .policy import Memory, Visible
from .resize import for_grid


@dataclass(frozen=True, slots=True)
class MemoryTokens:
    """Tokens [R, M, C] of one stream between two blocks; None where there are none yet."""

    before: Tensor | None = None  # what the first call of the next block still sees
    now: Tensor | None = None  # what its later calls see, and the next update begins with

    def tensors(self) -> dict[str, Tensor]:
        """Those there are, once where both are one."""
        if self.before is self.now:
            return {} if self.now is None else {"both": self.now}
        parts = {"before": self.before, "now": self.now}
        return {name: tokens for name, tokens in parts.items() if tokens is not None}


@dataclass(frozen=True, slots=True, eq=False)
class LearnedMemory:
    """One encoder, in the stream's dtype and on its device."""

    encoder: MemoryEncoder
    fingerprint: str  # of its weights
    # its initial state is shown from the start, as the paper's text has it and its released code does not
    from_start: bool = False
    # keys are read as they stood in the window, turned at their places in the stream: the preset for 5 s
    turned: bool = False
    recaches: bool = True  # begins anew when a prompt switch runs the window again; not so in that preset
    name: str = "learned"

    @property
    def cost(self) -> MemoryCost:
        """The encoder's."""
        return cost_of(self.encoder.config)

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        """A sentence for a model or frames of other sizes, and for positions without ids for the memory."""
        made = self.encoder.config
        if (made.num_heads, made.dim) != (shape.heads, shape.heads * shape.head_dim):
            return (
                f"Memory learned: the encoder was trained for a model of width {made.dim} in "
                f"{made.num_heads} heads, this one has {shape.heads * shape.head_dim} in {shape.heads}; load "
                f"the encoder of this checkpoint, or set memory to off."
            )
        if preset.memory_frames != made.frames:
            return (
                f"Memory learned: the encoder's state stands for {made.frames} latent frames, and position "
                f"preset {preset.name} has ids for {preset.memory_frames}; take the preset the encoder was "
                f"trained with: echo, or pocket_memory for the built-in model."
            )
        if (made.grid_height, made.grid_width) != (shape.grid_height, shape.grid_width):
            return (
                f"Memory learned: the encoder's state has frames of {made.grid_height} x {made.grid_width} "
                f"tokens (rows x columns), the stream's have {shape.grid_height} x {shape.grid_width}; "
                f"resample it with model_patches.memory.resize, or take the trained picture size."
            )
        return None

    def start(self, shape: CacheShape) -> MemoryTokens:
        """Nothing, or the initial state."""
        if not self.from_start:
            return MemoryTokens()
        state = self.encoder.fresh(shape.rows)
        return MemoryTokens(state, state)

    def restore(self, tensors: Mapping[str, Tensor]) -> MemoryTokens:
        """The tokens that gave `tensors`."""
        both = tensors.get("both")
        return MemoryTokens(tensors.get("before", both), tensors.get("now", both))

    def visible(self, memory: Memory) -> Visible:
        """The encoder's answer for the tokens before the last update, and after it."""
        tokens = _tokens(memory)
        before = None if tokens.before is None else self.encoder.read(tokens.before)
        if tokens.now is tokens.before:
            return before, before
        return before, None if tokens.now is None else self.encoder.read(tokens.now)

    def update(
        self, memory: Memory, cache: Cache, left: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[MemoryTokens, Cache]:
        """One update for the frames that left; without any, the next block sees what this one saw."""
        now = _tokens(memory).now
        if not left:
            return MemoryTokens(now, now), cache
        state = self.encoder.fresh(cache.shape.rows) if now is None else now
        return MemoryTokens(now, self._taken_in(state, cache, left, attention)), cache

    def recached(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> MemoryTokens:
        """The initial state after one update with all these frames, at once for every call.

        One that goes on is as it was before the frames that left last: with their new keys they leave again.
        """
        if not self.recaches:
            before = _tokens(memory).before
            return MemoryTokens(before, before)
        state = self._taken_in(self.encoder.fresh(cache.shape.rows), cache, frames, attention)
        return MemoryTokens(state, state)

    def spec(self) -> Mapping[str, object]:
        """The encoder by its fingerprint, and how it is run."""
        return {
            "name": self.name,
            "encoder": self.fingerprint,
            "from_start": self.from_start,
            "turned": self.turned,
            "recaches": self.recaches,
        }

    def _taken_in(self, state: Tensor, cache: Cache, frames: tuple[int, ...], attention: Attention) -> Tensor:
        shape = cache.shape
        keys, values = cache.keys_values(shape.layers - 1, frames)
        if self.turned:
            wide = torch.promote_types(keys.dtype, torch.float32)
            grid = (shape.grid_height, shape.grid_width)
            keys = rotate(keys, rope_table(frames, *grid, shape.head_dim, keys.device, wide, shape.rope))
        return self.encoder.update(state, keys, values, attention)


def cost_of(config: EncoderConfig) -> MemoryCost:
    """What an encoder of these sizes takes."""

    def snapshot_bytes(rows: int, dtype: torch.dtype) -> int:
        """Two states."""
        return 2 * rows * config.tokens * config.dim * dtype.itemsize

    return MemoryCost(config.tokens, config.device_bytes, snapshot_bytes)


@dataclass(frozen=True)
class LearnedKind(MemoryKind):
    """See `LearnedMemory`."""

    def why_not(self, model: DiTTree, model_memory: str) -> str | None:
        """A sentence for VideoMLA's attention that was not taught to read a dense model's memory."""
        if model_memory or not isinstance(model.blocks[0].self_attn, MlaAttention):
            return None
        return (
            "the model keeps VideoMLA's latents and was not taught to read a memory, which reads a dense "
            "model's keys. Connect the dense model, or one that train-memory has taught (in Pocket Model: "
            "VideoMLA's, for Evolving Memory), or set memory to ema or off."
        )

    def load(
        self, path: Path, model: WanModel, model_memory: str, dtype: torch.dtype | None = None
    ) -> MemoryFile:
        """See `load_memory`."""
        return load_memory(path, model, dtype, model_memory=model_memory)

    def preset(self, name: str, source: Source | None) -> str:
        """Those that the file says it was trained with, else the published ones."""
        file = _file(source)
        usual = "echo" if training_of(file.encoder.config).bounded_ids else "echo_std"
        return file.metadata.get("preset", usual)

    def cost(self, contract: Contract, source: Source | None) -> MemoryCost:
        """Of the encoder on the stream's grid."""
        geometry, config = contract.geometry, _file(source).encoder.config
        grid = {"grid_height": geometry.grid_height, "grid_width": geometry.grid_width}
        return cost_of(replace(config, **grid))

    def build(
        self,
        contract: Contract,
        device: torch.device,
        source: Source | None,
        options: Mapping[str, bool | float],
    ) -> LearnedMemory:
        """The file's encoder on the stream's grid, in its dtype and on this device."""
        file, geometry = _file(source), contract.geometry
        if refusal := why_not(file.encoder, contract.positions, file.changes_the_model):
            raise ValueError(refusal)
        training = training_of(file.encoder.config)
        encoder = for_grid(file.encoder, geometry.grid_height, geometry.grid_width)
        # the file's own encoder stays as it was read: the next stream may be in another dtype
        there = deepcopy(encoder).to(device, contract.dtype)
        shown = bool(self.option("from_start", options))
        return LearnedMemory(there, file.fingerprint, shown, training.turned_keys, training.recache)


KIND = LearnedKind(
    "learned",
    "a trained state of a few frames' size reads what leaves the window (Echo-Infinity)",
    needs="the file it was trained into",
    files="Echo-Infinity's base file (videos of 5 s), its file of LoRA and memory (long ones), or what "
    "train-memory wrote",
    options=(
        Option(
            "from_start",
            False,
            "shows the trained initial state before anything has left the window, as the paper's text says; "
            "its released code shows nothing until then.",
        ),
    ),
)


def _file(source: Source | None) -> MemoryFile:
    assert isinstance(source, MemoryFile), f"memory learned was given the file of another: {source}"
    return source


def _tokens(memory: Memory) -> MemoryTokens:
    assert isinstance(memory, MemoryTokens), f"memory learned was given the state of another: {memory}"
    return memory
