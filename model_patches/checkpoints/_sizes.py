"""Reads a Wan 2.1 text-to-video checkpoint: sizes from key names and shapes, then all layers, strictly."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch.wan import WanConfig, WanModel
from .files import Shapes, match, open_tensors, shapes_in, some
from .kinds import expert_warning, refuse_other_kinds
from .nesting import is_mla

SIGN = "head.modulation"  # the key that tells a Wan 2.1 file from any other
PUBLISHED = {"in_dim": "in_channels", "out_dim": "out_channels", "patch_size": "patch"}
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def read_config(shapes: Shapes, overrides: Mapping[str, object] | None = None) -> WanConfig:
    """Sizes of the model that has these keys and shapes.

    `overrides` is the `transformer` object of the file's metadata, in the published names (`in_dim`,
    `patch_size`); what is not a size of ours (`causal_ar`, `model_type`) is passed over.
    """
    needed = (
        SIGN,
        "patch_embedding.weight",
        "text_embedding.0.weight",
        "head.head.weight",
        "blocks.0.ffn.0.weight",
        "time_embedding.0.weight",
    )
    absent = [key for key in needed if key not in shapes]
    if absent:
        raise ValueError(
            f"read_config: a Wan 2.1 checkpoint has {some(needed)}; {some(absent)} absent from the "
            f"{len(shapes)} keys given, which begin with {some(sorted(shapes)) or 'nothing'}. "
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
    named = {PUBLISHED.get(key, key): value for key, value in (overrides or {}).items()}
    return WanConfig(**{**sizes, **{key: value for key, value in named.items() if key in known}})


def load_wan(
    path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> WanModel:
    """The model of a .safetensors file, frozen, every key and shape accounted for.

    `dtype` None keeps the file's. Sizes come from `read_config` with the metadata's `config.transformer`.
    Wan 2.2 5B and models with more inputs are refused; a file that is called like an expert of Wan 2.2's 14B
    is read with a warning.
    """
    path = Path(path)
    sizes = "if the metadata entry `config` gives sizes, they must be those of the tensors"
    with open_tensors("load_wan", path, "a Wan 2.1 .safetensors checkpoint", device=device) as file:
        shapes = shapes_in(file)
        if is_mla(shapes):
            raise ValueError(
                f"load_wan: {path} has VideoMLA's latent self-attention, not Wan's dense one; load it with "
                f"arch.mla_load.load_mla."
            )
        config = read_config(shapes, overrides(file.metadata() or {}, path))
        refuse_other_kinds("load_wan", path, config.in_channels, config.out_channels)
        if warning := expert_warning(path.name):
            warnings.warn(f"load_wan: {warning}", stacklevel=2)
        with torch.device("meta"):
            model = WanModel(config)
        match("load_wan", path, shapes, model, "Wan 2.1 text-to-video files", sizes)
        tensors = {key: file.get_tensor(key) for key in shapes}
    dtype = compute_dtype(path, tensors, dtype)
    model.load_state_dict({key: value.to(dtype) for key, value in tensors.items()}, assign=True)
    return model.requires_grad_(False).eval()


def overrides(metadata: Mapping[str, str], path: Path) -> Mapping[str, object]:
    """Sizes that the metadata's `config.transformer` gives, {} for none."""
    text = metadata.get("config", "{}")
    try:
        return dict(json.loads(text).get("transformer", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"load_wan: the metadata entry `config` of {path} must be a JSON object with a `transformer` "
            f"object, got {text[:60]!r}; write the file again or leave the entry out."
        ) from error


def compute_dtype(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> torch.dtype:
    """The dtype asked for, else that of the weights; refuses one that layers cannot compute in."""
    dtype = dtype or tensors["patch_embedding.weight"].dtype
    if dtype not in FLOATS:
        raise ValueError(
            f"load_wan: cannot compute in {dtype} (weights of {path}); give dtype as one of "
            f"{', '.join(str(known) for known in FLOATS)}."
        )
    return dtype
