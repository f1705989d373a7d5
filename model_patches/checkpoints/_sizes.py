"""Sizes of a Wan 2.1 text-to-video model: from key names and shapes, and from the file's metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..arch.wan import WanConfig
from .files import SHOWN, Shapes, first_few
from .limits import read_json

SIGN = "head.modulation"  # the key that tells a Wan 2.1 file from any other
PUBLISHED = {"in_dim": "in_channels", "out_dim": "out_channels", "patch_size": "patch"}
NEEDED = {  # what sizes are read from, and how many axes each has
    SIGN: 3,
    "patch_embedding.weight": 5,
    "text_embedding.0.weight": 2,
    "head.head.weight": 2,
    "blocks.0.ffn.0.weight": 2,
    "time_embedding.0.weight": 2,
}


def read_config(where: str, shapes: Shapes, stored: Mapping[str, object] | None = None) -> WanConfig:
    """Sizes of the model that has these keys and shapes.

    where: begins an error. stored: the `transformer` object of the file's metadata, in the published names
    (`in_dim`, `patch_size`), which goes before the shapes; other entries (`causal_ar`) are passed over.
    Raises ValueError where a key is missing that a size is read from.
    """
    absent = [key for key in NEEDED if key not in shapes]
    if absent:
        raise ValueError(
            f"{where}: a Wan 2.1 checkpoint has {first_few(NEEDED)}; {first_few(absent)} absent from the "
            f"{len(shapes)} keys, which begin with {first_few(sorted(shapes)) or 'nothing'}. "
            f"Give the diffusion model's own file, not a VAE, a LoRA or a training state."
        )
    if odd := [f"{key} {list(shapes[key])}" for key, axes in NEEDED.items() if not _fits(shapes[key], axes)]:
        raise ValueError(
            f"{where}: {first_few(odd)} can be of no Wan 2.1 model, whose tensors of these names have "
            f"{', '.join(str(NEEDED[each.split()[0]]) for each in odd[:SHOWN])} axes of at least 1. Copy or "
            f"download the file again."
        )
    patch = (1, *shapes["patch_embedding.weight"][3:])
    sizes: dict[str, Any] = {
        "dim": shapes[SIGN][-1],
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "num_layers": len({key.split(".")[1] for key in shapes if key.startswith("blocks.")}),
        "text_dim": shapes["text_embedding.0.weight"][1],
        "in_channels": shapes["patch_embedding.weight"][1],
        "out_channels": shapes["head.head.weight"][0] // math.prod(patch),
        "patch": patch,
        "freq_dim": shapes["time_embedding.0.weight"][1],
    }
    known = {field.name for field in fields(WanConfig)}
    named = {PUBLISHED.get(key, key): value for key, value in (stored or {}).items()}
    try:
        return WanConfig(**{**sizes, **{key: value for key, value in named.items() if key in known}})
    except ValueError as error:
        raise ValueError(
            f"{where}: the sizes that keys, shapes and metadata give make no model: {error} Copy or download "
            f"the file again, or write it without the metadata entry `config`."
        ) from error


def _fits(shape: tuple[int, ...], axes: int) -> bool:
    return len(shape) == axes and min(shape) > 0


def stored_sizes(where: str, path: Path, metadata: Mapping[str, str]) -> Mapping[str, object]:
    """Sizes that the metadata's `config.transformer` gives, {} for none; where: begins an error."""
    sizes = read_json(where, path, metadata, "config").get("transformer", {})
    if not isinstance(sizes, dict):
        raise ValueError(
            f"{where}: the metadata entry `config` of {path} must be a JSON object with a `transformer` "
            f"object, got {metadata['config'][:60]!r}; write the file again or leave the entry out."
        )
    return sizes
