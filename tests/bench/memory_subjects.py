"""The models that `bench memory` streams: the pocket, Wan 1.3B's sizes on a GPU, a tiny one for long runs.

Weights may be random: what a block costs does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.attention.positions import PositionPreset, preset
from ...model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from ...model_patches.cache.basis_file import load_basis
from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.formats import FORMATS
from ...model_patches.cache.shapes import Exact
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.memory.learned import LearnedMemory
from ...model_patches.memory.load import load_memory
from ...model_patches.memory.policies import POLICIES
from ...model_patches.memory.policy import MemoryPolicy
from ...model_patches.memory.resize import resize_encoder
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import ModelCaller, texts
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init
from ...pocket.models import BASIS_FILE, MEMORY_FILE, WEIGHTS
from .subject import RANDOM, subject

WAN = WanConfig(dim=1536, ffn_dim=8960, num_layers=30)
TINY = WanConfig(64, 128, 2, num_heads=2, text_dim=8, in_channels=4, out_channels=4)
TINY_SIGMAS = (1.0, 0.7)  # two calls: the first sees the memory before the update, the second the one after
RANK_SHARE = 2 / 3  # of the channels, half int8 and half int4: an eighth of the bytes in bfloat16


@dataclass(frozen=True)
class Remembered:
    """One model with its encoder; the same weights run with every memory."""

    name: str
    dit: nn.Module
    config: StreamConfig  # with the positions of a memory
    text_BLE: Tensor
    encoder: MemoryEncoder
    latent: Basis
    weights: str  # of the model
    encoder_weights: str
    negative_BLE: Tensor | None = None
    without: PositionPreset | None = None  # positions without a memory; None: the same, less its places

    @cached_property
    def caller(self) -> ModelCaller:
        """Runs the model."""
        return ModelCaller(self.dit, self.text_BLE.device)

    def policy(self, memory: str) -> MemoryPolicy:
        """The memory of that name; one that is built from a file has this model's encoder."""
        kind = POLICIES[memory]
        if kind.files:
            return LearnedMemory(self.encoder, self.encoder_weights)
        return kind.build(self.config, torch.device(self.text_BLE.device), None, {})

    def positions(self, memory: str) -> PositionPreset:
        """Only a memory of tokens has places of its own."""
        given, kind = self.config.positions, POLICIES[memory]
        if self.policy(memory).cost.tokens:
            return given if kind.files else preset(kind.preset(given.name, None))
        return self.without or replace(given, name=f"{given.name}_off", memory_frames=0)

    def formats(self) -> Mapping[str, CacheFormat]:
        """How frames are kept; the sink of the latents stays exact, as ema needs it."""
        exact = Exact(sink=self.config.positions.sink_frames)
        return {"dense": DENSE, "latent": FORMATS["latent"].build(self.dit, exact, self.latent)}

    def start(self, memory: str, cache: CacheFormat = DENSE) -> StreamState:
        """A new stream's state."""
        config, policy = replace(self.config, preset=self.positions(memory)), self.policy(memory)
        prompt = texts(self.text_BLE, self.negative_BLE)
        return init(self.caller, prompt, config, cache=cache, memory=policy)


def pocket(memory_file: Path | None = None) -> Remembered:
    """The built-in model as its recipe runs it, with its trained memory; a random one where there is none."""
    given, positions = subject(), preset("pocket_memory")
    path = memory_file or WEIGHTS / MEMORY_FILE
    dit, geometry = given.dit, given.config.geometry
    assert isinstance(dit, WanModel)
    dim, heads = dit.dim, dit.num_heads
    if memory_file or path.exists():
        encoder, said = load_memory(path, dit, torch.float32).encoder, path.stem
        encoder = resize_encoder(encoder, geometry.grid_height, geometry.grid_width)
    else:
        encoder, said = random_encoder(dim, heads, positions, geometry), RANDOM
    known = WEIGHTS / BASIS_FILE
    latent = load_basis(known) if known.exists() else random_basis(dim, len(dit.blocks))
    return Remembered(
        "pocket",
        dit,
        replace(given.config, preset=positions),
        given.text_BLE,
        encoder,
        latent,
        given.weights,
        said,
        given.negative_BLE,
        preset("pocket"),
    )


def random_subject(
    name: str, sizes: WanConfig, config: StreamConfig, text_tokens: int, device: torch.device
) -> Remembered:
    """A model of these sizes whose weights are drawn from a fixed seed."""
    torch.manual_seed(0)
    with device:
        dit = WanModel(sizes).to(config.dtype).eval().requires_grad_(False)
        text_BLE = torch.randn(1, text_tokens, sizes.text_dim).to(config.dtype)
        encoder = random_encoder(sizes.dim, sizes.num_heads, config.positions, config.geometry)
        latent = random_basis(sizes.dim, sizes.num_layers)
    return Remembered(name, dit, config, text_BLE, encoder.to(config.dtype), latent, RANDOM, RANDOM)


def tiny() -> Remembered:
    """Two layers, four tokens a frame, Echo-Infinity's positions: thousands of blocks a minute."""
    config = StreamConfig(Geometry(32, 32, latent_channels=4), "echo", sigmas=TINY_SIGMAS)
    return random_subject("tiny", TINY, config, 4, torch.device("cpu"))


def wan() -> Remembered:
    """Wan 1.3B's sizes at 832x480 with Echo-Infinity's positions, in bfloat16 on the GPU."""
    config = StreamConfig(Geometry(832, 480), "echo", dtype=torch.bfloat16)
    return random_subject("1.3B", WAN, config, 512, torch.device("cuda"))


SUBJECTS: dict[str, Callable[[], Remembered]] = {"pocket": pocket, "tiny": tiny, "1.3B": wan}


def random_encoder(dim: int, heads: int, positions: PositionPreset, geometry: Geometry) -> MemoryEncoder:
    """An encoder as it is before training."""
    sizes = EncoderConfig(dim, heads, positions.memory_frames, geometry.grid_height, geometry.grid_width)
    return MemoryEncoder(sizes).eval().requires_grad_(False)


def random_basis(dim: int, layers: int, group: int = 32) -> Basis:
    """Any directions, as many as make about an eighth of the dense bytes."""
    rank = max(group, round(RANK_SHARE * dim / group) * group)
    turn_CC = torch.linalg.qr(torch.randn(dim, dim))[0].contiguous()
    down_CR = turn_CC[:, :rank].contiguous()
    layer = LayerBasis(torch.zeros(dim, device=down_CR.device), down_CR, down_CR.T.contiguous())
    plan = LayerPlan("latent", rank, rank // 2 // group * group)
    return Basis((layer,) * layers, (plan,) * layers, group)
