"""Reads a Wan 2.1 text-to-video checkpoint: sizes from key names and shapes, then all layers, strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .wan import WanConfig, WanModel

SIGN = "head.modulation"  # the key that tells a Wan 2.1 file from any other
PUBLISHED = {"in_dim": "in_channels", "out_dim": "out_channels", "patch_size": "patch"}
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHOWN = 4  # keys quoted in an error

Shapes = Mapping[str, tuple[int, ...]]


def read_config(shapes: Shapes, overrides: Mapping[str, object] | None = None) -> WanConfig:
    """Sizes of the model that has these keys and shapes.

    `overrides` is the `transformer` object of the file's metadata, in the published names (`in_dim`,
    `patch_size`); what is not a size of ours (`causal_ar`, `model_type`) is passed over.
    """
    needed = (SIGN, "patch_embedding.weight", "text_embedding.0.weight", "head.head.weight",
              "blocks.0.ffn.0.weight", "time_embedding.0.weight")
    absent = [key for key in needed if key not in shapes]
    if absent:
        raise ValueError(
            f"read_config: a Wan 2.1 checkpoint has {_some(needed)}; {_some(absent)} absent from the "
            f"{len(shapes)} keys given, which begin with {_some(sorted(shapes)) or 'nothing'}. "
            f"Give the diffusion model's own file, not a VAE, a LoRA or a training state.")
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
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"load_wan: no file at {path}; give the path of a Wan 2.1 .safetensors checkpoint.")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            config = read_config(shapes, _overrides(metadata, path))
            with torch.device("meta"):
                model = WanModel(config)
            _match(path, shapes, {key: tuple(value.shape) for key, value in model.state_dict().items()})
            tensors = {key: file.get_tensor(key) for key in shapes}
    except SafetensorError as error:
        raise ValueError(
            f"load_wan: {path} ({path.stat().st_size:,} bytes) is not a whole safetensors file: {error}. "
            f"Copy or download it again.") from error
    dtype = _compute_dtype(path, tensors, dtype)
    model.load_state_dict({key: value.to(dtype) for key, value in tensors.items()}, assign=True)
    return model.requires_grad_(False).eval()


def _overrides(metadata: Mapping[str, str], path: Path) -> Mapping[str, object]:
    text = metadata.get("config", "{}")
    try:
        return dict(json.loads(text).get("transformer", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"load_wan: the metadata entry `config` of {path} must be a JSON object with a `transformer` "
            f"object, got {text[:60]!r}; write the file again or leave the entry out.") from error


def _match(path: Path, got: Shapes, needed: Shapes) -> None:
    missing, unexpected = sorted(needed.keys() - got.keys()), sorted(got.keys() - needed.keys())
    if missing or unexpected:
        raise ValueError(
            f"load_wan: {path} lacks {len(missing)} of {len(needed)} keys ({_some(missing) or 'none'}) and "
            f"has {len(unexpected)} unknown ones ({_some(unexpected) or 'none'}); only Wan 2.1 "
            f"text-to-video files with the published names can be read.")
    wrong = [f"{key} is {got[key]}, needs {needed[key]}" for key in sorted(needed) if got[key] != needed[key]]
    if wrong:
        raise ValueError(
            f"load_wan: {len(wrong)} shapes in {path} do not fit together: {'; '.join(wrong[:SHOWN])}; if "
            f"the metadata entry `config` gives sizes, they must be those of the tensors.")


def _compute_dtype(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> torch.dtype:
    dtype = dtype or tensors["patch_embedding.weight"].dtype
    if dtype not in FLOATS:
        raise ValueError(
            f"load_wan: cannot compute in {dtype} (weights of {path}); give dtype as one of "
            f"{', '.join(str(known) for known in FLOATS)}.")
    return dtype


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
