"""Files of LoRAs as trainers and extractors leave them, read into a `Lora`.

PEFT's dictionaries hold no alpha: it stands in the trainer's configuration, and equals the rank in every
published one (LongLive, Echo-Infinity), or in the metadata that PEFT writes beside safetensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ._lora_keys import ADDITION, place_of
from .files import FLOATS, first_few, refuse_repetitions
from .limits import read_json, reading
from .lora import Factors, Lora
from .nesting import ADAPTERS, MEMORY, read_raw

FORMS = (
    "pairs lora_A and lora_B, or lora_down and lora_up, and what is added as it stands, diff, diff_b and "
    "diff_m, under the names of Wan, diffusers or kohya's scripts"
)


@dataclass(frozen=True, slots=True, eq=False)
class LoraFile:
    """The LoRA of a file, and what lay beside it; its text is for a report."""

    path: Path
    lora: Lora
    memory: int  # tensors of a memory encoder beside it
    alpha_known: bool  # alpha stands in the file

    def __str__(self) -> str:
        return f"{self.path.name}: {', '.join(filter(None, (self._pairs(), self._added())))}"

    def _pairs(self) -> str:
        if not (scales := self.lora.scales):
            return ""
        scale = " to ".join(f"{each:g}" for each in dict.fromkeys((scales[0], scales[-1])))
        guess = "" if self.alpha_known else ", alpha taken as the rank: the file has none"
        ranks = first_few(map(str, self.lora.ranks))
        return f"{len(self.lora.layers)} layers, rank {ranks}, scale {scale}{guess}"

    def _added(self) -> str:
        return f"{len(self.lora.added)} tensors added as they stand" if self.lora.added else ""


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
    """The LoRA of these tensors, see `_lora_keys`; what is in none of its forms is left to `Lora.unread`.

    where: begins an error. alpha: of layers that have none of their own; None: their rank, as in
    Echo-Infinity. Raises ValueError for half a pair, ranks that do not agree, and where nothing can be read.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    added: dict[str, Tensor] = {}
    others: set[str] = set()
    for key, tensor in tensors.items():
        name, side = place_of(key)
        if not side:
            others.add(name)
            continue
        parts, part = (added, name) if side == ADDITION else (layers.setdefault(name, {}), side)
        if part in parts:
            raise ValueError(
                f"{where}: {key} is there twice once prefixes are cut off; save one adapter alone."
            )
        parts[part] = tensor
    if not layers and not added:
        raise ValueError(
            f"{where} holds no LoRA: its {len(tensors)} keys ({first_few(sorted(tensors)) or 'none'}) are "
            f"none of {FORMS}. A checkpoint is loaded as a model, not as a LoRA."
        )
    unread = _take_unread(layers, others)
    if not layers and not added:
        raise ValueError(
            f"{where}: what it changes ({first_few(unread)}) is in none of the forms that are read, {FORMS}; "
            f"have its trainer save it in one of them."
        )
    _check_pairs(where, layers)
    matrices = {f"{layer} ({side})": each for layer, parts in layers.items() for side, each in parts.items()}
    _check_numbers(where, {**added, **matrices})
    pairs = {layer: _factors(parts, alpha) for layer, parts in layers.items()}
    return Lora(pairs, sum("alpha" in parts for parts in layers.values()), added, unread)


def _take_unread(layers: dict[str, dict[str, Tensor]], others: set[str]) -> tuple[str, ...]:
    """Takes out layers that have a part which is not known, or matrices of a convolution; their names, and
    those of other parts."""
    found = {next((each for each in _around(other) if each in layers), other) for other in others}
    found |= {
        layer
        for layer, parts in layers.items()
        if any(parts[s].ndim > 2 for s in ("down", "up") if s in parts)
    }
    for layer in found:
        layers.pop(layer, None)
    return tuple(sorted(found))


def _around(name: str) -> Iterator[str]:
    """Names of the modules that it lies in, the innermost first."""
    while name:
        name = name.rpartition(".")[0]
        yield name


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


def _check_numbers(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError for numbers that would spoil the weights they are added to, or are no weights."""
    others = [name for name, tensor in tensors.items() if not _are_weights(tensor)]
    if others:
        raise ValueError(
            f"{where}: {len(others)} of its {len(tensors)} tensors hold NaN, infinite, complex or whole "
            f"numbers ({first_few(others)}), which no weight can take; copy or download the file again."
        )


def _are_weights(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return tensor.numel() == 1 and not tensor.is_complex()  # an alpha may be whole
    if tensor.is_meta or not tensor.numel():
        return True
    wide = tensor if tensor.dtype in FLOATS else tensor.float()
    return all(math.isfinite(end.item()) for end in wide.aminmax())


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
