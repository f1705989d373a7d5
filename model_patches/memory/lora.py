"""A low-rank adapter of linear layers, as PEFT stores it (Hu et al., arXiv 2106.09685).

A weight W [out, in] becomes W + scale * B @ A with A [rank, in] and B [out, rank].
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..checkpoints.detect import FLOATS
from ..checkpoints.files import some
from ..checkpoints.nesting import plain_key

MATRIX = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")  # an adapter's name or none
AROUND = re.compile(r".*\bbase_model\.model\.")  # what PEFT puts before the model's own names
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")

Pair = tuple[Tensor, Tensor]  # A, B
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """Pairs of matrices by the name of the layer they change, all of one rank and one scale."""

    pairs: Mapping[str, Pair]
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Rows of every A."""
        return next(iter(self.pairs.values()))[0].shape[0]

    def why_not(self, model: nn.Module) -> str | None:
        """A sentence unless every pair finds its layer and all blocks are changed alike, else None."""
        layers = _linears(model)
        if lost := [name for name in self.pairs if name not in layers]:
            return (
                f"{len(lost)} of the LoRA's {len(self.pairs)} layers are no linear layers of the model "
                f"({some(lost)}); take the model that the LoRA was made for."
            )
        wrong = [
            f"{name} makes {b.shape[0]} of {a.shape[1]} channels, the model's {layer.out_features} of "
            f"{layer.in_features}"
            for name, (a, b) in self.pairs.items()
            if (b.shape[0], a.shape[1]) != ((layer := layers[name]).out_features, layer.in_features)
        ]
        if wrong:
            return (
                f"{len(wrong)} of the LoRA's layers have other sizes than the model's: {some(wrong)}; take "
                f"the model that the LoRA was made for."
            )
        inner = {match[2] for name in self.pairs if (match := BLOCK.fullmatch(name))}
        alike = [name for name in layers if (match := BLOCK.fullmatch(name)) and match[2] in inner]
        if absent := [name for name in alike if name not in self.pairs]:
            return (
                f"the LoRA lacks {len(absent)} layers that it changes in other blocks ({some(absent)}); "
                f"copy or download its file again."
            )
        return None

    def coverage(self, model: nn.Module) -> tuple[int, int]:
        """(linear layers of the model's blocks that are changed, all there are)."""
        layers = [name for name in _linears(model) if BLOCK.fullmatch(name)]
        return sum(name in self.pairs for name in layers), len(layers)

    @torch.no_grad()
    def merged(self, model: Model) -> Model:
        """The model with the LoRA in its weights; the given one stays as it is, and shares all others.

        Added in float32, in float64 for float64, and rounded to the weight's own dtype once.
        """
        if refusal := self.why_not(model):
            raise ValueError(f"Lora: {refusal}")
        shared = {id(kept): kept for kept in (*model.parameters(), *model.buffers())}
        made = copy.deepcopy(model, shared)
        layers = _linears(made)
        for name, pair in self.pairs.items():
            old = layers[name].weight
            layers[name].weight = nn.Parameter(self._added(name, old, pair), requires_grad=old.requires_grad)
        return made

    def host_keys(self) -> dict[str, tuple[Tensor, Tensor, float]]:
        """(A, B, scale) by ComfyUI's name of the weight, for a host that patches weights itself."""
        return {f"diffusion_model.{name}.weight": (a, b, self.scale) for name, (a, b) in self.pairs.items()}

    def _added(self, name: str, weight: Tensor, pair: Pair) -> Tensor:
        if weight.dtype not in FLOATS:
            raise ValueError(
                f"Lora: {name} is kept as {weight.dtype}, which would lose what is added to it; load the "
                f"model in bfloat16 or float32, or let the host patch its weights."
            )
        wide = torch.promote_types(weight.dtype, torch.float32)
        a, b = (matrix.to(weight.device, wide) for matrix in pair)
        return (weight.to(wide) + self.scale * (b @ a)).to(weight.dtype)


def read_lora(where: str, tensors: Mapping[str, Tensor], alpha: float | None = None) -> Lora:
    """The adapter of a PEFT state dict, with or without PEFT's and trainers' prefixes.

    Errors begin with `where`. alpha: the scale is alpha / rank; None: it is 1, as in Echo-Infinity, whose
    alpha is its rank.
    """
    sides: dict[str, dict[str, Tensor]] = {}
    strangers = [key for key in tensors if not MATRIX.fullmatch(key)]
    if strangers:
        raise ValueError(
            f"{where}: {len(strangers)} tensors beside the LoRA's matrices cannot be applied "
            f"({some(strangers)}); only pairs lora_A.weight and lora_B.weight can be."
        )
    for key, tensor in tensors.items():
        if match := MATRIX.fullmatch(key):
            layer = sides.setdefault(plain_key(AROUND.sub("", match["layer"])), {})
            if match["side"] in layer:
                raise ValueError(
                    f"{where}: {key} is there twice once prefixes are cut off; save one adapter alone."
                )
            layer[match["side"]] = tensor
    if halves := [name for name, pair in sides.items() if len(pair) < 2]:
        raise ValueError(
            f"{where}: {len(halves)} of {len(sides)} layers of the LoRA have only one of A and B "
            f"({some(halves)}); copy or download the file again."
        )
    pairs = {name: (pair["A"], pair["B"]) for name, pair in sides.items()}
    rank = _rank(where, pairs)
    return Lora(pairs, 1.0 if alpha is None else alpha / rank)


def _rank(where: str, pairs: Mapping[str, Pair]) -> int:
    """The one rank of all pairs."""
    shapes = {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in pairs.items()}
    unfit = [
        f"{name} has A {list(a)} and B {list(b)}"
        for name, (a, b) in shapes.items()
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]
    ]
    if unfit:
        raise ValueError(
            f"{where}: A [rank, in] and B [out, rank] of a layer must have one rank, but {some(unfit)}; the "
            f"file was put together wrongly."
        )
    counts = Counter(a[0] for a, _ in shapes.values())
    if len(counts) != 1:
        found = ", ".join(f"{count} of rank {rank}" for rank, count in sorted(counts.items()))
        raise ValueError(
            f"{where}: the LoRA's layers have several ranks ({found}), so that its scale is not one number; "
            f"give an adapter of one rank."
        )
    return next(iter(counts))


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
