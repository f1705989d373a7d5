"""Echo-Infinity's memory (arXiv 2606.04527): a state of a few frames' size that encodes evicted frames.

Order of its released code: before a block that evicts frames, the encoder reads their last layer's keys and
values, once; the block's first call attends to the memory before that update, its later calls and the clean
pass to the one after it. Before the first eviction there is no memory.

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
from .policy import Memory, MemoryKeysValues
from .resize import resize_encoder

NAMES: tuple[set[str], ...] = (set(), {"both"}, {"now"}, {"before"}, {"before", "now"})  # in a snapshot


@dataclass(frozen=True, slots=True)
class MemoryTokens:
    """Tokens [R, M, C] of one stream between two blocks; None where there are none yet."""

    previous: Tensor | None = None  # for the first call of the next block
    current: Tensor | None = None  # for its later calls, and for the next update

    def tensors(self) -> dict[str, Tensor]:
        if self.previous is self.current:
            return {} if self.current is None else {"both": self.current}
        parts = {"before": self.previous, "now": self.current}
        return {name: tokens for name, tokens in parts.items() if tokens is not None}


@dataclass(frozen=True, slots=True, eq=False)
class LearnedMemory:
    """One encoder, in the stream's dtype and on its device."""

    encoder: MemoryEncoder
    fingerprint: str  # of its weights
    # attend to the initial state from the first block: the paper's text does, its released code does not
    from_start: bool = False
    # the encoder reads keys after RoPE at their index in the stream: the training on clips of 5 s
    turned: bool = False
    recaches: bool = True  # a prompt switch rebuilds the state from the recached window; not in that training
    name: str = "learned"

    @property
    def cost(self) -> MemoryCost:
        return cost_of(self.encoder.config)

    def why_not(self, shape: CacheShape, preset: PositionPreset, cost: CacheCost) -> str | None:
        """A sentence for other sizes of model or frames, or positions without ids for it, else None."""
        config = self.encoder.config
        if (config.num_heads, config.dim) != (shape.heads, shape.heads * shape.head_dim):
            return (
                f"Memory learned: the encoder was trained for a model of width {config.dim} in "
                f"{config.num_heads} heads, this one has {shape.heads * shape.head_dim} in {shape.heads}; "
                f"load the encoder of this checkpoint, or set memory to off."
            )
        if preset.memory_frames != config.frames:
            return (
                f"Memory learned: the encoder's state stands for {config.frames} latent frames, and position "
                f"preset {preset.name} has ids for {preset.memory_frames}; take the preset the encoder was "
                f"trained with: echo, or pocket_memory for the built-in model."
            )
        if (config.grid_height, config.grid_width) != (shape.grid_height, shape.grid_width):
            return (
                f"Memory learned: the encoder's state has frames of {config.grid_height} x "
                f"{config.grid_width} tokens (rows x columns), the stream's have "
                f"{shape.grid_height} x {shape.grid_width}; resample it with model_patches.memory.resize, or "
                f"take the trained picture size."
            )
        return None

    def start(self, shape: CacheShape) -> MemoryTokens:
        if not self.from_start:
            return MemoryTokens()
        state = self.encoder.fresh(shape.rows)
        return MemoryTokens(state, state)

    def restore(self, tensors: Mapping[str, Tensor], shape: CacheShape) -> MemoryTokens:
        if set(tensors) not in NAMES:
            raise ValueError(f"tokens of a memory cannot be {', '.join(sorted(tensors))}")
        config, dtype = self.encoder.config, self.encoder.dtype
        size = config.tokens, config.dim
        for name, tokens in tensors.items():
            if tokens.ndim != 3 or tokens.shape[1:] != size or tokens.dtype != dtype:
                raise ValueError(
                    f"{name} is {tokens.dtype} {list(tokens.shape)}, tokens are {dtype} [rows, {size[0]}, "
                    f"{size[1]}]"
                )
        both = tensors.get("both")
        return MemoryTokens(tensors.get("before", both), tensors.get("now", both))

    def read(self, memory: Memory) -> MemoryKeysValues:
        tokens = _tokens(memory)
        before = None if tokens.previous is None else self.encoder.read(tokens.previous)
        if tokens.current is tokens.previous:
            return before, before
        return before, None if tokens.current is None else self.encoder.read(tokens.current)

    def update(
        self, memory: Memory, cache: Cache, evicted: tuple[int, ...], attention: Attention = sdpa
    ) -> tuple[MemoryTokens, Cache]:
        now = _tokens(memory).current
        if not evicted:
            return MemoryTokens(now, now), cache
        state = self.encoder.fresh(cache.shape.rows) if now is None else now
        return MemoryTokens(now, self._encode(state, cache, evicted, attention)), cache

    def recached(
        self, memory: Memory, cache: Cache, frames: tuple[int, ...], attention: Attention = sdpa
    ) -> MemoryTokens:
        """The initial state after one update with all these frames, for every call.

        Without `recaches`: the state before the last eviction, because those frames are evicted again.
        """
        if not self.recaches:
            before = _tokens(memory).previous
            return MemoryTokens(before, before)
        state = self._encode(self.encoder.fresh(cache.shape.rows), cache, frames, attention)
        return MemoryTokens(state, state)

    def spec(self) -> Mapping[str, object]:
        return {
            "name": self.name,
            "encoder": self.fingerprint,
            "from_start": self.from_start,
            "turned": self.turned,
            "recaches": self.recaches,
        }

    def _encode(self, state: Tensor, cache: Cache, frames: tuple[int, ...], attention: Attention) -> Tensor:
        shape = cache.shape
        keys, values = cache.keys_values(shape.layers - 1, frames)
        if self.turned:
            wide = torch.promote_types(keys.dtype, torch.float32)
            grid = (shape.grid_height, shape.grid_width)
            keys = rotate(keys, rope_table(frames, *grid, shape.head_dim, keys.device, wide, shape.rope))
        return self.encoder.update(state, keys, values, attention)


def cost_of(config: EncoderConfig) -> MemoryCost:
    """The cost of an encoder of these sizes."""

    def device_bytes(shape: CacheShape, dtype: torch.dtype) -> int:
        return config.device_bytes(shape.rows, dtype)

    def snapshot_bytes(shape: CacheShape, dtype: torch.dtype) -> int:
        """Of two states."""
        return 2 * shape.rows * config.tokens * config.dim * dtype.itemsize

    return MemoryCost(config.tokens, device_bytes, snapshot_bytes)


@dataclass(frozen=True)
class LearnedKind(MemoryKind):
    """See `LearnedMemory`."""

    def why_not(self, model: DiTTree, model_memory: str) -> str | None:
        """A sentence for VideoMLA's attention that was not trained to read a memory, else None."""
        if model_memory or not isinstance(model.blocks[0].self_attn, MlaAttention):
            return None
        return (
            "the model has VideoMLA's latents and was not trained to read a memory, which has the keys of "
            "a dense model. Connect the dense model, or one that train-memory has trained (in Pocket Model: "
            "VideoMLA's, for Evolving Memory), or set memory to ema or off."
        )

    def load(
        self, path: Path, model: WanModel, model_memory: str, dtype: torch.dtype | None = None
    ) -> MemoryFile:
        return load_memory(path, model, dtype, model_memory=model_memory)

    def preset(self, name: str, source: Source | None) -> str:
        file = _file(source)
        usual = "echo" if training_of(file.encoder.config).bounded_ids else "echo_std"
        return file.metadata.get("preset", usual)

    def cost(
        self, contract: Contract, source: Source | None, options: Mapping[str, bool | float]
    ) -> MemoryCost:
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
        file, geometry = _file(source), contract.geometry
        if refusal := why_not(file.encoder, contract.positions, file.changes_the_model):
            raise ValueError(refusal)
        training = training_of(file.encoder.config)
        encoder = resize_encoder(file.encoder, geometry.grid_height, geometry.grid_width)
        # a copy: the next stream may need the file's encoder in another dtype
        copy = deepcopy(encoder).to(device, contract.dtype)
        from_start = bool(self.option("from_start", options))
        return LearnedMemory(copy, file.fingerprint, from_start, training.rotated_keys, training.recache)


KIND = LearnedKind(
    "learned",
    "a trained state of a few frames' size reads what leaves the window (Echo-Infinity)",
    needs="the file of a memory trained with this checkpoint",
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
    assert isinstance(source, MemoryFile), f"memory learned needs its own file, got: {source}"
    return source


def _tokens(memory: Memory) -> MemoryTokens:
    assert isinstance(memory, MemoryTokens), f"memory learned needs its own state, got: {memory}"
    return memory
