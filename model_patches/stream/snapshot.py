"""A stream in one safetensors file: written whole or not at all, gone on with bit for bit.

Tensors are the cache's frames in the order of their slots, the memory, the newest latents, the prompts, the
decoder's past and the ledger's pictures. The metadata holds the contract, the sizes, the counts and a
fingerprint of all of the model's weights. Free slots are not stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch.fingerprint import read_back, written
from ..cache.dense import DENSE
from ..cache.format import CacheFormat
from ..cache.shapes import CacheShape
from ..memory.policy import OFF, MemoryPolicy, room
from ..vae.decoder import from_tensors, to_tensors
from .caller import Caller
from .config import StreamConfig
from .ledger import FrameLedger
from .state import Blend, StreamState
from .state_file import config_from_json, config_to_json, read, read_metadata, write
from .step import reserve

KIND, VERSION = "rivulet stream", 2
MAY_DIFFER = ("seed", "cfg", "sigmas", "first_sigmas")  # when a stream goes on; the prompt may, too
PICTURES = ("ending_HWC", "lost_HWC")  # of the ledger


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot says of itself before a tensor is read."""

    config: StreamConfig
    block: int  # blocks made
    start_frame: int  # latent frames of the scene
    ledger: FrameLedger  # without its pictures
    text: str | None  # the prompt that held
    followed: bool

    @property
    def ahead(self) -> int:
        """Pixel frames of the newest latents that the video does not hold: the run ended before they came."""
        return self.ledger.next_frame(self.config.geometry, self.start_frame) - self.ledger.written


@torch.inference_mode()
def save(caller: Caller, state: StreamState, path: str | Path) -> None:
    """Writes a file that appears under its name only when it is whole and on disk.

    Raises OSError where it cannot be written, RuntimeError where the state can be read no more.
    """
    ledger = {f.name: getattr(state.ledger, f.name) for f in fields(FrameLedger)}
    parts = {
        "cache": state.cache.tensors(),
        "memory": state.memory.tensors(),
        "prompt": caller.dump(state.prompt),
        "blend": {} if state.blend is None else caller.dump(state.blend.old),
        "past": to_tensors(state.past),
        "ledger": {name: ledger.pop(name) for name in PICTURES if ledger[name] is not None},
    }
    tensors = {f"{part}.{name}": t.contiguous() for part, named in parts.items() for name, t in named.items()}
    weights = caller.fingerprint(state.config)
    about = {
        "block": state.block,
        "start_frame": state.start_frame,
        "config": config_to_json(state.config),
        "shape": asdict(state.cache.shape),
        "weights": weights and {kind: written(numbers) for kind, numbers in weights.items()},
        "table": state.cache.table,
        "cache": dict(state.format.spec()),
        "memory": dict(state.policy.spec()),
        "blend": state.blend and [state.blend.blocks, state.blend.done],
        "must_recache": state.must_recache,
        "ledger": {name: count for name, count in ledger.items() if name not in PICTURES},
        "text": state.text,
        "followed": state.followed,
        "steered": state.steered,
    }
    write(Path(path), KIND, VERSION, about, {**tensors, "tail": state.tail_BCTHW.contiguous()})


@torch.inference_mode()
def load(
    path: str | Path,
    caller: Caller,
    config: StreamConfig | None = None,
    *,
    cache: CacheFormat = DENSE,
    memory: MemoryPolicy = OFF,
) -> StreamState:
    """The saved state on the caller's device; it goes on as if it had never stopped.

    config: what of MAY_DIFFER it says holds from here on; None: the saved one. ValueError for a file whose
    sizes are not the model's, whose frames are kept in another format than `cache`, that remembers in another
    way than `memory`, whose contract is another, or that was made with other weights.
    """
    path = Path(path)
    about, tensors = read(path, KIND, VERSION)
    # what is a view of the file may lie at any address, by which products on a CPU are rounded; a cache is
    # copied into its slots
    tensors = {name: t if name.startswith("cache.") else t.clone() for name, t in tensors.items()}
    saved = config_from_json(about["config"])
    config = saved if config is None else config
    shape = CacheShape(**about["shape"])
    _refuse_other_contract(path, _contract(saved, cache=about["cache"], memory=about["memory"]),
                           _contract(config, cache=cache.spec(), memory=memory.spec()))  # fmt: skip
    prompt = caller.load(_under("prompt", tensors))
    present = room(memory, caller.shape(prompt, config), config.positions, cache.cost)
    _refuse_other_contract(path, asdict(shape), asdict(present))
    if about["weights"] is not None:
        made_with = {kind: read_back(numbers) for kind, numbers in about["weights"].items()}
        caller.expect(made_with, path.name, config)
    table = tuple(about["table"])
    reserve(caller, cache, shape, len(table), config.dtype)
    parts = {
        name: {key: tensor.to(caller.device) for key, tensor in _under(name, tensors).items()}
        for name in ("cache", "memory")
    }
    frames = cache.restored(caller.tree, shape, table, parts["cache"], config.dtype, caller.device)
    blend = about["blend"] and Blend(caller.load(_under("blend", tensors)), *about["blend"])
    return StreamState(
        config, cache, memory, about["block"], about["start_frame"], frames, memory.restored(parts["memory"]),
        prompt, tensors["tail"].to(caller.device), blend, about["must_recache"],
        from_tensors(_under("past", tensors)), replace(_ledger(about), **_under("ledger", tensors)),
        about["text"], about["followed"], about["steered"],
    )  # fmt: skip


def read_header(path: Path) -> Header:
    """What the snapshot says of itself; ValueError for another kind of file, or another release's."""
    return _header(read_metadata(path, KIND, VERSION))


def read_ending(path: Path) -> tuple[Header, Tensor]:
    """The header and the newest latents [B, C, T, H, W] in the model's units, on the CPU."""
    about, tensors = read(path, KIND, VERSION, only=("tail",))
    return _header(about), tensors["tail"]


def _header(about: Mapping[str, Any]) -> Header:
    counts = about["block"], about["start_frame"], _ledger(about), about["text"], about["followed"]
    return Header(config_from_json(about["config"]), *counts)


def _ledger(about: Mapping[str, Any]) -> FrameLedger:
    return FrameLedger(**about["ledger"])


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = part + "."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _contract(config: StreamConfig, **specs: Mapping[str, object]) -> dict[str, Any]:
    """What must be the same when a stream goes on, as JSON has it."""
    same = {name: value for name, value in config_to_json(config).items() if name not in MAY_DIFFER}
    return json.loads(json.dumps({**same, **{name: dict(spec) for name, spec in specs.items()}}))


def _refuse_other_contract(path: Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    names = [name for name in saved if saved[name] != asked[name]]
    if names:
        said = "; ".join(_difference(name, saved[name], asked[name]) for name in names)
        raise ValueError(
            f"Resume: the take in {path.name} was made with {said}. Give it the same model, size, preset, "
            f"block, cache and memory, and guidance where it had guidance; or begin a new stream."
        )


def _difference(name: str, saved: Any, asked: Any) -> str:
    if isinstance(saved, dict) and isinstance(asked, dict):
        if saved.get("name") != asked.get("name"):
            return f"{name} {saved.get('name')}, not {asked.get('name')}"
        parts = [key for key in {**saved, **asked} if saved.get(key) != asked.get(key)]
        return ", ".join(f"{name} {key} {saved.get(key)}, not {asked.get(key)}" for key in parts)
    return f"{name.replace('_', ' ')} {saved}, not {asked}"
