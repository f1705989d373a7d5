"""Low-rank changes of a frozen model's layers (LoRA, arXiv 2106.09685), under the names PEFT gives them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ...model_patches.arch.wan import WanModel
from ...model_patches.checkpoints.lora import Factors, Lora

ATTENTION_LAYERS = ("q", "k", "v", "o")
FEED_FORWARD_LAYERS = ("0", "2")
PREFIX = "base_model.model."  # of PEFT's keys


class Adapted(nn.Module):
    """A frozen layer plus scale * B A; `fold` makes the weight that calls use until it is called again."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.layer, self.scale = layer.requires_grad_(False), alpha / rank
        like, exact = layer.weight, torch.promote_types(layer.weight.dtype, torch.float32)
        self.lora_A = nn.Parameter(like.new_empty(rank, layer.in_features, dtype=exact))
        self.lora_B = nn.Parameter(like.new_zeros(layer.out_features, rank, dtype=exact))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.folded = like.detach()

    def fold(self) -> None:
        """Take the newest A and B."""
        weight = self.layer.weight
        self.folded = (weight + self.scale * (self.lora_B @ self.lora_A)).to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The changed layer."""
        return linear(x, self.folded, self.layer.bias)


class Adapters(nn.Module):
    """All low-rank changes of one model, whose layers they stand in for."""

    def __init__(self, dit: WanModel, rank: int, alpha: float) -> None:
        super().__init__()
        self.rank, self.alpha = rank, alpha
        dit.requires_grad_(False)
        self.names = tuple(_targets(dit))
        self.initial: dict[str, tuple[Tensor, Tensor]] = {}
        self.layers = nn.ModuleList()
        for name in self.names:
            path, _, child = name.rpartition(".")
            parent = dit.get_submodule(path)
            layer = getattr(parent, child)
            self.layers.append(Adapted(layer, rank, alpha))
            setattr(parent, child, self.layers[-1])

    def fold(self) -> None:
        """Let all layers take their newest A and B."""
        for layer in self.layers:
            layer.fold()

    @classmethod
    def from_lora(cls, dit: WanModel, lora: Lora | None, rank: int) -> Adapters:
        """Changes of a rank, begun with those of a file where there is one, at its scale."""
        adapters = cls(dit, rank, rank * (lora.scales[0] if lora else 1.0))
        if lora:
            adapters.load(lora.layers)
        return adapters

    @torch.no_grad()
    def load(self, layers: Mapping[str, Factors]) -> None:
        """Go on from the A and B of each layer; what the rank is above theirs changes nothing yet.

        Raises ValueError if their rank is above this one.
        """
        rank = layers[self.names[0]].rank
        if rank > self.rank:
            raise ValueError(
                f"--rank {self.rank}: the changes to go on from have rank {rank}; give that or more."
            )
        for name, layer in zip(self.names, self.layers, strict=True):
            layer.lora_A[:rank], layer.lora_B[:, :rank] = layers[name].down, layers[name].up
            self.initial[name] = layer.lora_A.clone(), layer.lora_B.clone()

    @torch.no_grad()
    def go_back(self, share: float) -> None:
        """Move every A and B that share of the way back to what was loaded.

        Between a start and what was trained from it lie weights that can do nearly all of both (WiSE-FT,
        arXiv 2109.01903).
        """
        for name, layer in zip(self.names, self.layers, strict=True):
            for weight, initial in zip((layer.lora_A, layer.lora_B), self.initial[name], strict=True):
                weight.lerp_(initial.to(weight), share)

    def parts(self) -> list[nn.Parameter]:
        """What is trained."""
        return [matrix for layer in self.layers for matrix in (layer.lora_A, layer.lora_B)]

    def peft(self) -> dict[str, Tensor]:
        """A and B under PEFT's keys."""
        return {
            f"{PREFIX}{name}.{part}.weight": getattr(layer, part)
            for name, layer in zip(self.names, self.layers, strict=True)
            for part in ("lora_A", "lora_B")
        }


def _targets(dit: WanModel) -> Iterator[str]:
    """Names of the layers that are changed, as Echo-Infinity chooses them: ten of each block."""
    for block in range(len(dit.blocks)):
        for attention in ("self_attn", "cross_attn"):
            yield from (f"blocks.{block}.{attention}.{layer}" for layer in ATTENTION_LAYERS)
        yield from (f"blocks.{block}.ffn.{layer}" for layer in FEED_FORWARD_LAYERS)
