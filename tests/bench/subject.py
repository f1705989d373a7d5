"""What the benchmarks run: the pocket model, or random weights of the same shape where it is not there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import CacheFormat
from ...model_patches.geometry import Geometry
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import ModelCaller, texts
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init
from ...model_patches.vae.wan import WanVAE
from ...pocket import text
from ...pocket.choices import choose
from ...pocket.defaults import PLAIN
from ...pocket.models import DIT_FILE, WEIGHTS

PROMPT = "a red circle and a blue square on a green ground"
RANDOM = "random"  # the name of weights that show nothing


@dataclass(frozen=True)
class Subject:
    """A model, its decoder, its prompt and how it streams."""

    dit: nn.Module
    vae: nn.Module
    config: StreamConfig
    prompt: str
    text_BLE: Tensor
    weights: str  # how they were trained, or RANDOM
    fps: int = 16  # pixel frames per second
    negative_BLE: Tensor | None = None  # where the recipe guides
    cache: CacheFormat = DENSE
    memory: MemoryPolicy = OFF

    @cached_property
    def caller(self) -> ModelCaller:
        """Runs the model."""
        return ModelCaller(self.dit, self.text_BLE.device)

    @property
    def preset(self) -> PositionPreset:
        """Which frames a block attends to."""
        return self.config.positions

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height of what the decoder draws, in pixels."""
        return self.config.geometry.picture_size(self.vae.upscale)

    @property
    def trained(self) -> bool:
        """Whether the pictures mean anything."""
        return self.weights != RANDOM

    def start(self, reserve_frames: int = 0) -> StreamState:
        """Returns a new stream's state."""
        prompt = texts(self.text_BLE, self.negative_BLE)
        kept = {"cache": self.cache, "memory": self.memory}
        return init(self.caller, prompt, self.config, reserve_frames=reserve_frames, **kept)

    def with_preset(self, preset: PositionPreset) -> Subject:
        """Returns the same model with another window."""
        return replace(self, config=replace(self.config, preset=preset))


def random_subject(dim: int = 256, layers: int = 4, size: int = 64, vae_dim: int = 16) -> Subject:
    """Returns a model of the pocket's shape whose weights are drawn from a fixed seed."""
    torch.manual_seed(0)
    dit = WanModel(WanConfig(dim, 4 * dim, layers, text_dim=text.TEXT_DIM)).eval().requires_grad_(False)
    vae = WanVAE(vae_dim).eval().requires_grad_(False)
    return Subject(dit, vae, StreamConfig(Geometry(size, size)), PROMPT, text.encode(PROMPT), RANDOM)


def subject(
    folder: Path | None = None, cache: str | None = PLAIN.cache, memory: str | None = PLAIN.memory
) -> Subject:
    """Returns the built-in model as its recipe runs it, or a folder's; random weights without either.

    cache, memory: see `pocket.choices.choose`. Random weights keep every frame as it is and remember nothing.
    """
    if folder is None and not (WEIGHTS / DIT_FILE).exists():
        return random_subject()
    chosen = choose(cache, memory, folder)
    pocket = chosen.pocket
    config = pocket.config()
    return Subject(
        pocket.dit,
        pocket.vae,
        config,
        PROMPT,
        pocket.encode(PROMPT),
        pocket.recipe.trained,
        pocket.recipe.fps,
        pocket.no_text() if config.guided else None,
        chosen.cache,
        chosen.memory,
    )
