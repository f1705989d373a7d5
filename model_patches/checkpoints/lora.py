"""Reads a LoRA for a Wan model, as trainers leave it: weight + alpha / rank * up @ down, layer by layer.

Low-rank adaptation: arXiv 2106.09685. PEFT's dictionaries keep no alpha in their tensors: it stands in the
trainer's configuration, and equals the rank in every published one (LongLive, Echo-Infinity), or in the
metadata that PEFT writes beside safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .families import MEMORY
from .files import some
from .nesting import ADAPTERS, plain_key, read_raw

OUTER = re.compile(r"^(base_model\.model|base_model|transformer|lora_unet|unet)\.")
PART = re.compile(r"(?P<layer>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up|alpha)(\.default)?(\.weight)?")
DOWN, UP = ("lora_A", "lora_down"), ("lora_B", "lora_up")
FORMS = "pairs lora_A and lora_B, or lora_down and lora_up, under Wan's layer names"


@dataclass(frozen=True, slots=True)
class Factors:
    """The difference to one layer's weight."""

    down: Tensor  # [rank, inputs]
    up: Tensor  # [outputs, rank]
    alpha: float

    @property
    def rank(self) -> int:
        """Inner width."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What `up @ down` is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class Lora:
    """All differences of a file."""

    path: Path
    layers: Mapping[str, Factors]  # by the name of a Wan layer, such as blocks.0.self_attn.q
    memory: int  # tensors of a memory encoder beside it
    alpha_known: bool  # alpha stands in the file

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that occur, falling."""
        return tuple(sorted({factors.rank for factors in self.layers.values()}, reverse=True))

    def __str__(self) -> str:
        scales = sorted({factors.scale for factors in self.layers.values()})
        scale = " to ".join(f"{each:g}" for each in dict.fromkeys((scales[0], scales[-1])))
        told = "" if self.alpha_known else ", alpha taken as the rank: the file has none"
        ranks = some(map(str, self.ranks))
        return f"{self.path.name}: {len(self.layers)} layers, rank {ranks}, scale {scale}{told}"


def read_lora(where: str, path: Path) -> Lora:
    """The LoRA of a .safetensors or .pt file, PEFT dictionaries and wrappers taken off.

    where: begins an error. Raises ValueError for a whole model, a half of a pair, ranks that do not agree.
    """
    found, metadata = read_raw(where, path, "a LoRA of a Wan model")
    tensors, memory = _unpacked(where, path, found)
    parts: dict[str, dict[str, Tensor]] = {}
    left: list[str] = []
    for key, value in tensors.items():
        if match := PART.fullmatch(_layer_key(key)):
            parts.setdefault(match["layer"], {})[match["part"]] = value
        else:
            left.append(key)
    if not parts:
        raise ValueError(
            f"{where}: {path} holds no LoRA: its {len(tensors)} keys ({some(sorted(tensors)) or 'none'}) are "
            f"none of {FORMS}. A checkpoint is loaded as a model, not as a LoRA."
        )
    if left:
        raise ValueError(
            f"{where}: {len(left)} of {len(tensors)} keys of {path} ({some(left)}) are none of {FORMS}; a "
            f"LoRA is read only if every tensor has its place."
        )
    alpha = _alpha(where, path, metadata)
    layers = {layer: _factors(where, path, layer, own, alpha) for layer, own in parts.items()}
    known = alpha is not None or all("alpha" in own for own in parts.values())
    return Lora(path, layers, memory, known)


def _layer_key(key: str) -> str:
    key = OUTER.sub("", plain_key(key))
    return plain_key(OUTER.sub("", key))


def _unpacked(where: str, path: Path, found: Mapping[str, Any]) -> tuple[dict[str, Tensor], int]:
    """(tensors of the LoRA, how many of a memory encoder lay beside)."""
    name = next((name for name in ADAPTERS if isinstance(found.get(name), Mapping)), None)
    if name is None and any(isinstance(value, Mapping) for value in found.values()):
        raise ValueError(
            f"{where}: {path} holds {some(map(str, found))} and none of {', '.join(ADAPTERS)}: it is a "
            f"checkpoint, not a LoRA. Load it as a model."
        )
    memory = found.get(MEMORY.rstrip("."), {})
    tensors = found if name is None else found[name]
    return {str(k): v for k, v in tensors.items() if isinstance(v, Tensor)}, len(memory)


def _factors(where: str, path: Path, layer: str, own: Mapping[str, Tensor], alpha: float | None) -> Factors:
    down, up = (next((own[name] for name in names if name in own), None) for names in (DOWN, UP))
    if down is None or up is None or down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        shapes = some(f"{name} {list(value.shape)}" for name, value in own.items())
        raise ValueError(
            f"{where}: layer {layer} of {path} has {shapes}; a pair [rank, inputs] and [outputs, rank] is "
            f"needed. Copy or download the file again."
        )
    stored = float(own["alpha"]) if "alpha" in own else alpha
    return Factors(down, up, float(down.shape[0]) if stored is None else stored)


def _alpha(where: str, path: Path, metadata: Mapping[str, str]) -> float | None:
    """Alpha that PEFT's metadata says for all layers, None where it says none."""
    text = metadata.get("lora_adapter_metadata", "{}")
    try:
        stored = {key.split(".")[-1]: value for key, value in json.loads(text).items()}
        return float(stored["lora_alpha"]) if "lora_alpha" in stored else None
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{where}: the metadata entry `lora_adapter_metadata` of {path} must be a JSON object, got "
            f"{text[:60]!r}; write the file again or leave the entry out."
        ) from error
