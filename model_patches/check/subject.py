"""Small models of Wan's shape with drawn weights, for a check: a head is as wide as the true one.

Weights come from a generator of their own, so nobody else's random numbers change.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from ..arch.mla import MlaModel, MlaSizes
from ..arch.tree import DiTTree
from ..arch.wan import WanConfig, WanModel
from ..attention.positions import PositionPreset
from ..cache.basis import Basis, LayerBasis, LayerPlan
from ..cache.format import CacheFormat
from ..cache.formats import FORMATS
from ..cache.kind import CacheKind
from ..geometry import Geometry
from ..memory.encoder import EncoderConfig, MemoryEncoder
from ..memory.learned import LearnedMemory
from ..memory.policy import OFF, MemoryPolicy
from ..stream.caller import Caller, Prompt
from ..stream.config import StreamConfig
from ..stream.model_caller import ModelCaller
from ..vae.tiny import TinyDecoder
from ..vae.wan import WanVAE

SIZES = WanConfig(dim=256, ffn_dim=512, num_layers=2, text_dim=64)
SIDE = 64  # pixels: 16 tokens a latent frame
BLOCK = 3  # latent frames
POSITIONS = PositionPreset("check", 1, 5, last_id=8, trained_frames=9, memory_frames=3)
BLOCKS = 4  # of a stream: frames leave its window before the third, and the memory is read in it
LEVELS = (1.0, 0.6)
SHARPNESS = 2.5  # of attention: one wrong key must show in the latents
PLAN = LayerPlan("latent", rank=256, wide=192)
NAMES = {"off": "", "learned": ", learned memory"}


def draw(module: nn.Module, seed: int) -> nn.Module:
    """The module with weights that keep a signal's size, on the CPU in float32."""
    module = module.to_empty(device="cpu").requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        number = torch.randn(parameter.shape, generator=generator)
        if parameter.numel() == max(parameter.shape):  # a vector: a norm's gain or a bias
            sharp = SHARPNESS if name.endswith("self_attn.norm_k.weight") else 1.0
            number = 0.1 * number if name.endswith("bias") else sharp + 0.1 * number
        elif name.endswith("modulation"):
            number = 0.3 * number
        else:
            number = number / parameter[0].numel() ** 0.5
        parameter.data.copy_(number)
    return module


def _on_meta(make: type[nn.Module], *sizes: object) -> nn.Module:
    with torch.device("meta"):
        return make(*sizes)


@dataclass(frozen=True, eq=False)
class Subject:
    """One stream: its format and memory, its model on any device in any dtype.

    Whatever the dtype, weights and texts are numbers of `dtype`, so that only arithmetic can differ.
    """

    kind: CacheKind
    memory: str  # off or learned
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """For a table."""
        return f"{self.kind.name}{NAMES[self.memory]}"

    @cached_property
    def _model(self) -> nn.Module:
        dense = _on_meta(WanModel, SIZES)
        if self.kind.why_not(cast(DiTTree, dense)) is not None:  # VideoMLA's
            dense = _on_meta(MlaModel, SIZES, MlaSizes())
        return draw(dense, 1).to(self.dtype)

    @cached_property
    def _encoder(self) -> nn.Module:
        grid = SIDE // 16
        config = EncoderConfig(SIZES.dim, SIZES.num_heads, POSITIONS.memory_frames, grid, grid)
        return draw(_on_meta(MemoryEncoder, config), 2).to(self.dtype)

    @cached_property
    def _text(self) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return torch.randn(1, 12, SIZES.text_dim, generator=generator).to(self.dtype)

    def config(self, dtype: torch.dtype) -> StreamConfig:
        """The contract of its stream."""
        return StreamConfig(Geometry(SIDE, SIDE), POSITIONS, BLOCK, LEVELS, seed=5, dtype=dtype)

    def on(self, device: torch.device, dtype: torch.dtype) -> Start:
        """All that a stream of it begins with, there; the subject stays as it is."""
        model = cast(DiTTree, _copied(self._model, device, dtype))
        policy: MemoryPolicy = OFF
        if self.memory != "off":
            encoder = _copied(self._encoder, device, dtype)
            assert isinstance(encoder, MemoryEncoder)
            policy = LearnedMemory(encoder, "check")
        cache, text_BLE = _format(self.kind, model), self._text.to(device, dtype)
        return Start(ModelCaller(model, device), (text_BLE,), self.config(dtype), cache, policy)


@dataclass(frozen=True, eq=False)
class Start:
    """A caller and what `stream.init` wants."""

    caller: Caller
    prompt: Prompt
    config: StreamConfig
    cache: CacheFormat
    memory: MemoryPolicy

    @property
    def model(self) -> nn.Module:
        """The transformer."""
        assert isinstance(self.caller.tree, nn.Module)
        return self.caller.tree


def subjects(dtype: torch.dtype, memories: tuple[str, ...] = tuple(NAMES)) -> list[Subject]:
    """Every cache format with each memory."""
    return [Subject(kind, memory, dtype) for memory in memories for kind in FORMATS.values()]


def wan_vae(dtype: torch.dtype) -> WanVAE:
    """A narrow Wan VAE."""
    vae = draw(_on_meta(WanVAE, 8), 4).to(dtype)
    assert isinstance(vae, WanVAE)
    return vae


def tiny_decoder(dtype: torch.dtype) -> TinyDecoder:
    """A narrow decoder of the TAEHV family."""
    decoder = draw(_on_meta(TinyDecoder, (32, 32, 16, 16)), 5).to(dtype)
    assert isinstance(decoder, TinyDecoder)
    return decoder


def _copied(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return deepcopy(module).to(device, dtype)


def _format(kind: CacheKind, model: DiTTree) -> CacheFormat:
    return kind.build(model) if kind.source is None else kind.build(model, source=_basis())


def _basis() -> Basis:
    """Directions of falling length in every layer, as a calibration makes them."""
    layers = []
    for layer in range(SIZES.num_layers):
        generator = torch.Generator().manual_seed(6 + layer)
        turn = torch.linalg.qr(torch.randn(SIZES.dim, SIZES.dim, dtype=torch.float64, generator=generator))[0]
        lengths = torch.logspace(0.3, -0.3, SIZES.dim, dtype=torch.float64)
        mean = 0.1 * torch.randn(SIZES.dim, dtype=torch.float64, generator=generator)
        up = (turn * lengths).T.contiguous().float()
        layers.append(LayerBasis(mean.float(), (turn / lengths).float(), up))
    return Basis(tuple(layers), (PLAN,) * SIZES.num_layers, 64)
