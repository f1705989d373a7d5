"""One stream in one safetensors file: written whole or not at all, read back bit for bit.

Tensors are the kept frames in the order of their slots, the text and its keys and values, and the extras. The
metadata holds the contract, the sizes and the positions. Free slots are not stored.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .arch.tree import DiTTree
from .attention.positions import PositionPreset
from .attention.text import TextRows, TextState
from .cache.dense import DenseCache
from .cache.format import CacheShape
from .checkpoint import open_tensors, shapes_in
from .geometry import Geometry
from .state import StreamConfig, StreamState

KIND, VERSION = "rivulet stream", 1
EXTRAS = "extras."


@torch.inference_mode()
def save(state: StreamState, path: str | Path) -> None:
    """Write the stream to a file that appears under its name only when it is whole and on disk."""
    path = Path(path)
    text = state.text
    tensors = {f"cache.{name}": tensor for name, tensor in state.cache.tensors().items()}
    tensors |= {f"text.raw.{i}": raw for i, raw in enumerate(text.raw)}
    tensors |= {f"text.kv.{i}": group.kv for i, group in enumerate(text.groups)}
    tensors |= {EXTRAS + name: tensor for name, tensor in state.extras.items()}
    about = {
        "kind": KIND, "version": VERSION, "block": state.block, "start_frame": state.start_frame,
        "config": _plain(state.config), "shape": asdict(state.cache.shape), "table": state.cache.table,
        "branches": [group.branches for group in text.groups],
    }
    part = path.with_name(path.name + ".part")
    try:
        save_file(_apart(tensors), part, metadata={"rivulet": json.dumps(about)})
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"save: cannot write the stream to {path}: {error}. The stream itself and any file of that name "
            f"are as they were; choose a folder that exists, may be written to and has room.") from error
    finally:
        with suppress(OSError):
            part.unlink()


@torch.inference_mode()
def load(
    path: str | Path, model: DiTTree, config: StreamConfig | None = None,
    device: str | torch.device = "cpu",
) -> StreamState:
    """The saved state on `device`; it goes on as if it had never stopped.

    Refuses a file whose sizes are not the model's, or whose contract is not `config` where that is given.
    """
    path = Path(path)
    about, tensors = _read(path)
    saved = _config(about["config"])
    if config is not None:
        _check_contract(path, saved, config)
    shape = CacheShape(**about["shape"])
    device = torch.device(device)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    _check_model(path, model, shape, saved, device)
    branches: list[int] = about["branches"]
    text = TextState(
        tuple(tensors[f"text.raw.{i}"] for i in range(sum(branches))),
        tuple(TextRows(count, tensors[f"text.kv.{i}"]) for i, count in enumerate(branches)))
    cache = DenseCache.restored(shape, tuple(about["table"]), {"kv": tensors["cache.kv"]}, device)
    extras = {name.removeprefix(EXTRAS): value for name, value in tensors.items() if name.startswith(EXTRAS)}
    return StreamState(saved, about["block"], about["start_frame"], cache, text, extras)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each in order in memory of its own, as the file format wants them."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if not tensor.is_contiguous() or place in seen:
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(place)
    return tensors


def _plain(config: StreamConfig) -> dict[str, Any]:
    return asdict(config) | {"dtype": str(config.dtype).removeprefix("torch.")}


def _config(plain: dict[str, Any]) -> StreamConfig:
    return StreamConfig(**plain | {
        "geometry": Geometry(**plain["geometry"]), "preset": PositionPreset(**plain["preset"]),
        "sigmas": tuple(plain["sigmas"]), "dtype": getattr(torch, plain["dtype"])})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    wanted, remedy = "a stream that was saved", "Copy it again, or take an older one."
    with open_tensors("load", path, wanted, remedy) as file:
        about = json.loads((file.metadata() or {}).get("rivulet", "{}"))
        if about.get("kind") != KIND or about.get("version") != VERSION:
            raise ValueError(
                f"load: {path} holds {about.get('kind', 'no stream')!r} in version "
                f"{about.get('version', '?')}, needs {KIND!r} in version {VERSION}; it was not saved by "
                f"this release.")
        return about, {name: file.get_tensor(name) for name in shapes_in(file)}


def _check_contract(path: Path, saved: StreamConfig, asked: StreamConfig) -> None:
    names = [f.name for f in fields(StreamConfig) if getattr(saved, f.name) != getattr(asked, f.name)]
    if names:
        differences = "; ".join(
            f"{name} {getattr(saved, name)}, not {getattr(asked, name)}" for name in names)
        raise ValueError(
            f"load: the stream in {path} was made with {differences}. It cannot go on differently: leave the "
            f"config out to continue it, or start a new stream.")


def _check_model(
    path: Path, model: DiTTree, shape: CacheShape, config: StreamConfig, device: torch.device
) -> None:
    probe = torch.zeros(1, model.freq_dim, dtype=config.dtype, device=device)
    try:
        width = model.time_embedding(probe).shape[-1]
    except RuntimeError as error:
        raise ValueError(
            f"load: the model's layers refused {config.dtype} on {device}: {error}. The stream in {path} "
            f"needs the model in that dtype, and `device` must be the model's.") from error
    got = (len(model.blocks), model.num_heads, width, model.patch_size[1])
    needed = (shape.layers, shape.heads, shape.heads * shape.head_dim, config.geometry.patch)
    if got != needed:
        raise ValueError(
            f"load: the stream in {path} was made by a model with (layers, heads, width, patch) {needed}, "
            f"got one with {got}; load that model.")
