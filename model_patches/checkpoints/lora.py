"""Low-rank adapters (LoRA, arXiv 2106.09685): read as trainers leave them, checked against a model, merged.

A weight W [out, in] becomes W + scale * up @ down: down [rank, in], up [out, rank], scale alpha / rank.
PEFT's dictionaries hold no alpha: it stands in the trainer's configuration, and equals the rank in every
published one (LongLive, Echo-Infinity), or in the metadata that PEFT writes beside safetensors.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..reason import dtype_name
from .files import FLOATS, first_few, refuse_repetitions
from .limits import read_json, reading
from .nesting import ADAPTERS, MEMORY, plain_key, read_raw

PREFIX = re.compile(  # what PEFT, diffusers and kohya's scripts put before the model's own names
    r"^(?:.*\bbase_model\.(?:model\.)?)?(?:(?:transformer|lora_unet|unet)\.)?"
)
PART = re.compile(  # .default or another word is an adapter's name
    r"(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up|alpha)(?:\.default|(?:\.[^.]+)?\.weight)?"
)
SIDES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up", "alpha": "alpha"}
FORMS = "pairs lora_A and lora_B, or lora_down and lora_up, under Wan's layer names"
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


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """Changes of linear layers, by the name of a Wan layer, such as blocks.0.self_attn.q."""

    layers: Mapping[str, Factors]
    alphas: int = 0  # layers whose alpha stands beside their matrices

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that occur, falling."""
        return tuple(sorted({factors.rank for factors in self.layers.values()}, reverse=True))

    @property
    def scales(self) -> tuple[float, ...]:
        """Scales that occur, rising."""
        return tuple(sorted({factors.scale for factors in self.layers.values()}))

    def why_not(self, model: nn.Module) -> str | None:
        """A sentence unless every change finds its layer and all blocks are changed alike, else None."""
        layers = _linears(model)
        if lost := [name for name in self.layers if name not in layers]:
            return (
                f"{len(lost)} of the LoRA's {len(self.layers)} layers are no linear layers of the model "
                f"({first_few(lost)}); take the model that the LoRA was made for."
            )
        wrong = [
            f"{name} makes {up.shape[0]} of {down.shape[1]} channels, the model's {layer.out_features} of "
            f"{layer.in_features}"
            for name, (down, up, _) in self.layers.items()
            if (up.shape[0], down.shape[1]) != ((layer := layers[name]).out_features, layer.in_features)
        ]
        if wrong:
            return (
                f"{len(wrong)} of the LoRA's layers have other sizes than the model's: {first_few(wrong)}; "
                f"take the model that the LoRA was made for."
            )
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
            old = linears[name].weight
            new = _add(name, old, factors)
            linears[name].weight = nn.Parameter(new, requires_grad=old.requires_grad)
        return copied


@dataclass(frozen=True, slots=True, eq=False)
class LoraFile:
    """The LoRA of a file, and what lay beside it; its text is for a report."""

    path: Path
    lora: Lora
    memory: int  # tensors of a memory encoder beside it
    alpha_known: bool  # alpha stands in the file

    def __str__(self) -> str:
        scales = self.lora.scales
        scale = " to ".join(f"{each:g}" for each in dict.fromkeys((scales[0], scales[-1])))
        guess = "" if self.alpha_known else ", alpha taken as the rank: the file has none"
        ranks = first_few(map(str, self.lora.ranks))
        return f"{self.path.name}: {len(self.lora.layers)} layers, rank {ranks}, scale {scale}{guess}"


def read_lora(where: str, path: Path) -> LoraFile:
    """The LoRA of a .safetensors or .pt file, PEFT dictionaries and wrappers taken off.

    where: begins an error. Raises ValueError for a whole model, and where `lora_from` does.
    """
    content, metadata = read_raw(where, path, "a LoRA of a Wan model")
    tensors, memory = _unpack(where, path, content)
    alpha = _alpha(where, path, metadata)
    lora = lora_from(f"{where}: {path}", tensors, alpha)
    return LoraFile(path, lora, memory, alpha is not None or lora.alphas == len(lora.layers))


def lora_from(where: str, tensors: Mapping[str, Tensor], alpha: float | None = None) -> Lora:
    """The LoRA of these tensors, under the names of PEFT, diffusers or kohya's scripts.

    where: begins an error. alpha: of layers that have none of their own; None: their rank, as in
    Echo-Infinity. Raises ValueError for half a pair, ranks that do not agree, and any other tensor.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    others: list[str] = []
    for key, tensor in tensors.items():
        match = PART.fullmatch(plain_key(key))
        if match is None:
            others.append(key)
            continue
        parts = layers.setdefault(plain_key(PREFIX.sub("", match["layer"])), {})
        side = SIDES[match["part"]]
        if side in parts:
            raise ValueError(
                f"{where}: {key} is there twice once prefixes are cut off; save one adapter alone."
            )
        parts[side] = tensor
    if not layers:
        raise ValueError(
            f"{where} holds no LoRA: its {len(tensors)} keys ({first_few(sorted(tensors)) or 'none'}) are "
            f"none of {FORMS}. A checkpoint is loaded as a model, not as a LoRA."
        )
    if others:
        raise ValueError(
            f"{where}: {len(others)} of {len(tensors)} keys ({first_few(others)}) are none of {FORMS}; a "
            f"LoRA is read only if every tensor has its place."
        )
    _check_pairs(where, layers)
    pairs = {layer: _factors(parts, alpha) for layer, parts in layers.items()}
    return Lora(pairs, sum("alpha" in parts for parts in layers.values()))


def _factors(parts: Mapping[str, Tensor], alpha: float | None) -> Factors:
    down, up = parts["down"], parts["up"]
    own = parts["alpha"].item() if "alpha" in parts else alpha
    return Factors(down, up, 1.0 if own is None else own / down.shape[0])


def _check_pairs(where: str, layers: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raises ValueError unless every layer has matrices [rank, inputs] and [outputs, rank]."""
    halves = [layer for layer, parts in layers.items() if not {"down", "up"} <= parts.keys()]
    if halves:
        raise ValueError(
            f"{where}: {len(halves)} of {len(layers)} layers of the LoRA have only one of the two matrices "
            f"({first_few(halves)}); copy or download the file again."
        )
    alphas = [
        layer
        for layer, parts in layers.items()
        if (alpha := parts.get("alpha")) is not None
        and (alpha.numel() != 1 or alpha.is_complex() or not 0 < alpha.item() < math.inf)
    ]
    if alphas:
        raise ValueError(
            f"{where}: alpha is one number above 0, and that of {first_few(alphas)} is none; copy or "
            f"download the file again."
        )
    pairs = {layer: (parts["down"], parts["up"]) for layer, parts in layers.items()}
    unfit = [
        f"{layer} has {list(down.shape)} and {list(up.shape)}"
        for layer, (down, up) in pairs.items()
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not down.numel() * up.numel()
    ]
    if unfit:
        raise ValueError(
            f"{where}: a layer of a LoRA has matrices [rank, inputs] and [outputs, rank] of one rank, but "
            f"{first_few(unfit)}; copy or download the file again."
        )


def _add(name: str, weight: Tensor, factors: Factors) -> Tensor:
    """weight + scale * up @ down, in the weight's own dtype."""
    if weight.dtype not in FLOATS:
        raise ValueError(
            f"Lora: {name} has weights of {dtype_name(weight.dtype)}, too few digits to add a LoRA to; load "
            f"the model in bfloat16 or float32, or let the host patch its weights."
        )
    wide = torch.promote_types(weight.dtype, torch.float32)
    down, up = (matrix.to(weight.device, wide) for matrix in factors[:2])
    return (weight.to(wide) + factors.scale * (up @ down)).to(weight.dtype)


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


def _unpack(where: str, path: Path, content: Mapping[str, Any]) -> tuple[dict[str, Tensor], int]:
    """(tensors of the LoRA, how many of a memory encoder lay beside)."""
    name = next((name for name in ADAPTERS if isinstance(content.get(name), Mapping)), None)
    if name is None and any(isinstance(value, Mapping) for value in content.values()):
        raise ValueError(
            f"{where}: {path} holds {first_few(map(str, content))} and none of {', '.join(ADAPTERS)}: it is "
            f"a checkpoint, not a LoRA. Load it as a model."
        )
    memory = content.get(MEMORY.rstrip("."), {})
    tensors = content if name is None else content[name]
    found = {str(k): v for k, v in tensors.items() if isinstance(v, Tensor)}
    refuse_repetitions(where, path, found)
    return found, len(memory) if isinstance(memory, Mapping) else 0


def _alpha(where: str, path: Path, metadata: Mapping[str, str]) -> float | None:
    """Alpha that PEFT's metadata says for all layers, None where it says none."""
    entry = "lora_adapter_metadata"
    stored = {key.split(".")[-1]: value for key, value in read_json(where, path, metadata, entry).items()}
    if "lora_alpha" not in stored:
        return None
    with reading(where, path, entry):
        return _positive(float(stored["lora_alpha"]))


def _positive(alpha: float) -> float:
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha}, and must be above 0")
    return alpha
