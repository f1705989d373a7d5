"""Sizes of a Wan 2.1 text-to-video model: from key names and shapes, and from the file's metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..arch.wan import WanConfig
from .files import Shapes, first_few

SIGN = "head.modulation"  # the key that tells a Wan 2.1 file from any other
PUBLISHED = {"in_dim": "in_channels", "out_dim": "out_channels", "patch_size": "patch"}
NEEDED = (
    SIGN,
    "patch_embedding.weight",
    "text_embedding.0.weight",
    "head.head.weight",
    "blocks.0.ffn.0.weight",
    "time_embedding.0.weight",
)


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
    return WanConfig(**{**sizes, **{key: value for key, value in named.items() if key in known}})


def stored_sizes(where: str, path: Path, metadata: Mapping[str, str]) -> Mapping[str, object]:
    """Sizes that the metadata's `config.transformer` gives, {} for none; where: begins an error."""
    text = metadata.get("config", "{}")
    try:
        return dict(json.loads(text).get("transformer", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{where}: the metadata entry `config` of {path} must be a JSON object with a `transformer` "
            f"object, got {text[:60]!r}; write the file again or leave the entry out."
        ) from error
