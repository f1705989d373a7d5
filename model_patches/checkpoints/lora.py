"""Low-rank adapters (LoRA, arXiv 2106.09685): changes of a model's weights, checked against it and merged.

A weight W [out, in] becomes W + scale * up @ down: down [rank, in], up [out, rank], scale alpha / rank.
Beside such pairs a LoRA may have whole tensors that are added to biases, norms, modulations, small weights.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..reason import dtype_name
from .files import FLOATS, Shapes, first_few, shapes_of

BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")

Model = TypeVar("Model", bound=nn.Module)


class Factors(NamedTuple):
    """The change of one layer's weight, scale * up @ down."""

    down: Tensor  # [rank, inputs]
    up: Tensor  # [outputs, rank]
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Inner width."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight that is changed: [outputs, inputs]."""
        return self.up.shape[0], self.down.shape[1]


@dataclass(frozen=True, slots=True)
class Unfit:
    """What of a LoRA has no place in a model; its text is for a report, and empty for nothing."""

    absent: tuple[str, ...]  # layers and parameters that the model does not have
    other: tuple[str, ...]  # that have another size there, with both sizes
    unread: tuple[str, ...]  # see `Lora`

    @property
    def changes(self) -> int:
        """How many they are."""
        return len(self.absent) + len(self.other) + len(self.unread)

    def __str__(self) -> str:
        kinds = {
            "not in the model": self.absent,
            "of another size": self.other,
            "in a form that is not read": self.unread,
        }
        return "; ".join(
            f"{len(each)} {'are' if len(each) > 1 else 'is'} {why}: {first_few(each)}"
            for why, each in kinds.items()
            if each
        )


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """Changes of linear layers, and of parameters."""

    layers: Mapping[str, Factors]  # by the name of a Wan layer, such as blocks.0.self_attn.q
    alphas: int = 0  # layers whose alpha stands beside their matrices
    added: Mapping[str, Tensor] = field(default_factory=dict)  # to a parameter, such as blocks.0.norm3.bias
    unread: tuple[str, ...] = ()  # layers that are changed in a way not known here, and left as they are

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that occur, falling."""
        return tuple(sorted({factors.rank for factors in self.layers.values()}, reverse=True))

    @property
    def scales(self) -> tuple[float, ...]:
        """Scales that occur, rising."""
        return tuple(sorted({factors.scale for factors in self.layers.values()}))

    @property
    def changes(self) -> int:
        """How many layers and parameters are changed, or would be if the change were known."""
        return len(self.layers) + len(self.added) + len(self.unread)

    def fitting(self, shapes: Shapes) -> tuple[Lora, Unfit]:
        """(what finds its place in a model with parameters of these shapes, what does not)."""
        pairs = {name: (f"{name}.weight", factors.shape) for name, factors in self.layers.items()}
        added = {name: (name, tuple(value.shape)) for name, value in self.added.items()}
        places = {**pairs, **added}
        absent = [name for name, (key, _) in places.items() if key not in shapes]
        other = {
            name: f"{name} {list(shape)}, the model's {list(shapes[key])}"
            for name, (key, shape) in places.items()
            if key in shapes and shapes[key] != shape
        }
        out = {*absent, *other}
        kept = replace(
            self,
            layers={name: value for name, value in self.layers.items() if name not in out},
            added={name: value for name, value in self.added.items() if name not in out},
            unread=(),
        )
        return kept, Unfit(tuple(sorted(absent)), tuple(other.values()), self.unread)

    def why_not(self, model: nn.Module) -> str | None:
        """A sentence unless every change finds its place and all blocks are changed alike, else None."""
        layers = _linears(model)
        if lost := [name for name in self.layers if name not in layers]:
            return (
                f"{len(lost)} of the LoRA's {len(self.layers)} layers are no linear layers of the model "
                f"({first_few(lost)}); take the model that the LoRA was made for."
            )
        _, unfit = self.fitting(shapes_of(model.state_dict()))
        if unfit.changes:
            return f"of the LoRA's {self.changes} changes {unfit}. Take the model that the LoRA was made for."
        inner = {match[2] for name in self.layers if (match := BLOCK.fullmatch(name))}
        alike = [name for name in layers if (match := BLOCK.fullmatch(name)) and match[2] in inner]
        if absent := [name for name in alike if name not in self.layers]:
            return (
                f"the LoRA lacks {len(absent)} layers that it changes in other blocks ({first_few(absent)}); "
                f"copy or download its file again."
            )
        return None

    def coverage(self, model: nn.Module) -> tuple[int, int]:
        """(linear layers of the model's blocks that are changed, all there are)."""
        layers = [name for name in _linears(model) if BLOCK.fullmatch(name)]
        return sum(name in self.layers for name in layers), len(layers)

    @torch.no_grad()
    def merge(self, model: Model) -> Model:
        """A copy of the model with the LoRA in its weights; it shares all other weights with the model.

        Added in float32, in float64 for float64, and rounded to the weight's own dtype once.
        """
        if refusal := self.why_not(model):
            raise ValueError(f"Lora: {refusal}")
        shared = {id(part): part for part in (*model.parameters(), *model.buffers())}
        copied = copy.deepcopy(model, shared)
        linears = _linears(copied)
        for name, factors in self.layers.items():
            linears[name].weight = _sum(name, linears[name].weight, factors)
        for name, change in self.added.items():
            owner, _, own = name.rpartition(".")
            setattr(copied.get_submodule(owner), own, _sum(name, copied.get_parameter(name), change))
        return copied


def _sum(name: str, old: Tensor, change: Factors | Tensor) -> nn.Parameter:
    """old + scale * up @ down, or + a tensor, in the old one's dtype."""
    if old.dtype not in FLOATS:
        raise ValueError(
            f"Lora: {name} has weights of {dtype_name(old.dtype)}, too few digits to add a LoRA to; load "
            f"the model in bfloat16 or float32, or let the host patch its weights."
        )
    wide = torch.promote_types(old.dtype, torch.float32)
    if isinstance(change, Factors):
        down, up = (matrix.to(old.device, wide) for matrix in change[:2])
        new = old.to(wide) + change.scale * (up @ down)
    else:
        new = old.to(wide) + change.to(old.device, wide)
    return nn.Parameter(new.to(old.dtype), requires_grad=old.requires_grad)


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
