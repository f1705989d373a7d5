"""One stream in one safetensors file: written whole or not at all, read back bit for bit.

Tensors are the kept frames in the order of their slots, the text and its keys and values, and the extras. The
metadata holds the contract, the sizes, the positions and a sketch of the model's weights. Free slots are not
stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch.fingerprint import SAME, difference, read_back, sketch, written
from ..arch.tree import DiTTree
from ..attention.rope import layout_of
from ..attention.text import TextRows, TextState
from ..cache.dense import DENSE
from ..cache.format import CacheFormat, CacheShape
from ..memory.policy import OFF, MemoryPolicy
from .state import Blend, StreamConfig, StreamState
from .state_file import config_of, plain, read, write

KIND, VERSION = "rivulet stream", 1
CACHE, EXTRAS, MEMORY = "cache.", "extras.", "memory."
FORMAT, POLICY = ("keeps its frames in cache", "format"), ("remembers by", "memory")


@torch.inference_mode()
def save(model: DiTTree, state: StreamState, path: str | Path) -> None:
    """Write the model's stream to a file that appears under its name only when it is whole and on disk."""
    path = Path(path)
    text = state.text
    tensors = {CACHE + name: tensor for name, tensor in state.cache.tensors().items()}
    tensors |= {f"text.raw.{i}": raw for i, raw in enumerate(text.raw)}
    tensors |= {f"text.kv.{i}": group.kv for i, group in enumerate(text.groups)}
    tensors |= {EXTRAS + name: tensor for name, tensor in state.extras.items()}
    tensors |= {MEMORY + name: tokens.contiguous() for name, tokens in state.memory.tensors().items()}
    if state.tail_BCTHW is not None:
        tensors["tail"] = state.tail_BCTHW
    if state.blend is not None:
        tensors |= {f"blend.old.{i}": raw.contiguous() for i, raw in enumerate(state.blend.old)}
        tensors |= {f"blend.new.{i}": raw.contiguous() for i, raw in enumerate(state.blend.new)}
    about = {
        "block": state.block,
        "start_frame": state.start_frame,
        "config": plain(state.config),
        "shape": asdict(state.cache.shape),
        "weights": written(_weights(model, state.cache.shape, state.config, state.text.raw[0].device)),
        "table": state.cache.table,
        "cache": dict(state.format.spec()),
        "memory": dict(state.policy.spec()),
        "blend": state.blend and [state.blend.blocks, state.blend.done],
        "branches": [group.branches for group in text.groups],
    }
    write(path, KIND, VERSION, about, tensors)


@torch.inference_mode()
def load(
    path: str | Path,
    model: DiTTree,
    config: StreamConfig | None = None,
    device: str | torch.device = "cpu",
    cache: CacheFormat = DENSE,
    memory: MemoryPolicy = OFF,
) -> StreamState:
    """The saved state on `device`; it goes on as if it had never stopped.

    Refuses a file whose sizes are not the model's, whose frames are kept in another format than `cache`, that
    remembers in another way than `memory`, whose contract is not `config` where that is given, or that was
    made with other weights. Files of releases that kept no sketch of them are taken as the model's.
    """
    path = Path(path)
    about, tensors = read(path, KIND, VERSION)
    saved = config_of(about["config"])
    if config is not None:
        _check_contract(path, saved, config)
    _check_same(path, FORMAT, about.get("cache", DENSE.spec()), cache.spec())
    _check_same(path, POLICY, about.get("memory", OFF.spec()), memory.spec())
    shape = CacheShape(**about["shape"])
    device = torch.device(device)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    _check_model(path, model, shape, saved, device)
    if "weights" in about:
        _check_weights(path, read_back(about["weights"]), _weights(model, shape, saved, device))
    branches: list[int] = about["branches"]
    text = TextState(
        tuple(tensors[f"text.raw.{i}"] for i in range(sum(branches))),
        tuple(TextRows(count, tensors[f"text.kv.{i}"]) for i, count in enumerate(branches)),
    )
    rooms, extras = _under(CACHE, tensors), _under(EXTRAS, tensors)
    kept = cache.restored(model, shape, tuple(about["table"]), rooms, saved.dtype, device)
    remembered = memory.restored(_under(MEMORY, tensors))
    return StreamState(
        saved, about["block"], about["start_frame"], kept, text, extras, cache, remembered, memory,
        tensors.get("tail"), _blend(about, tensors),
    )  # fmt: skip


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _blend(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Blend | None:
    if not about.get("blend"):
        return None
    old, new = (tuple(_under(f"blend.{side}.", tensors).values()) for side in ("old", "new"))
    return Blend(old, new, *about["blend"])


def _check_contract(path: Path, saved: StreamConfig, asked: StreamConfig) -> None:
    names = [f.name for f in fields(StreamConfig) if getattr(saved, f.name) != getattr(asked, f.name)]
    if names:
        differences = "; ".join(
            f"{name} {getattr(saved, name)}, not {getattr(asked, name)}" for name in names
        )
        raise ValueError(
            f"load: the stream in {path} was made with {differences}. It cannot go on differently: leave the "
            f"config out to continue it, or start a new stream."
        )


def _check_same(
    path: Path, what: tuple[str, str], saved: Mapping[str, object], asked: Mapping[str, object]
) -> None:
    given = json.loads(json.dumps(dict(asked)))
    if saved == given:
        return
    names = [name for name in (*saved, *given) if saved.get(name) != given.get(name)]
    differences = "; ".join(f"{n} {saved.get(n)}, not {given.get(n)}" for n in dict.fromkeys(names))
    raise ValueError(
        f"load: the stream in {path} {' '.join(what)} {saved.get('name')!r} and was to be taken up with "
        f"{given.get('name')!r} ({differences}); give the {what[1]} it was made with, or start a new stream."
    )


def _check_model(
    path: Path, model: DiTTree, shape: CacheShape, config: StreamConfig, device: torch.device
) -> None:
    probe = torch.zeros(1, model.freq_dim, dtype=config.dtype, device=device)
    try:
        width = model.time_embedding(probe).shape[-1]
    except RuntimeError as error:
        raise ValueError(
            f"load: the model's layers refused {config.dtype} on {device}: {error}. The stream in {path} "
            f"needs the model in that dtype, and `device` must be the model's."
        ) from error
    got = (len(model.blocks), model.num_heads, width, model.patch_size[1])
    needed = (shape.layers, shape.heads, shape.heads * shape.head_dim, config.geometry.patch)
    if got != needed:
        raise ValueError(
            f"load: the stream in {path} was made by a model with (layers, heads, width, patch) {needed}, "
            f"got one with {got}; load that model."
        )
    if layout_of(model) != shape.rope:
        raise ValueError(
            f"load: the heads of the model that made {path} turn as {shape.rope or 'Wan'}, those "
            f"of this one as {layout_of(model) or 'Wan'}; load that model, with the same rotary bands."
        )


def _weights(model: DiTTree, shape: CacheShape, config: StreamConfig, device: torch.device) -> Tensor:
    return sketch(model, shape.heads * shape.head_dim, config.dtype, device)


def _check_weights(path: Path, saved_LKR: Tensor, given_LKR: Tensor) -> None:
    apart = difference(saved_LKR, given_LKR)
    if not apart <= SAME:
        raise ValueError(
            f"load: the stream in {path} was made with weights that differ from this model's by "
            f"{100 * apart:.1f} %, and would not go on as it began. Load the weights it was made with, with "
            f"the same adapters and kept in the same way, or start a new stream."
        )
