"""A stream in one safetensors file: written whole or not at all, gone on with bit for bit.

Tensors are the cache's frames in the order of their slots, the memory, the newest latents, the prompts, the
decoder's past and the ledger's pictures. The metadata holds the contract, the sizes, the counts and a
fingerprint of all of the model's weights. Free slots are not stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch.fingerprint import read_back, written
from ..cache.dense import DENSE
from ..cache.format import CacheFormat
from ..cache.shapes import CacheShape
from ..memory.policy import OFF, MemoryPolicy, add_memory_tokens
from ..vae.decoder import StreamDecoder, from_tensors, to_tensors
from .caller import Caller
from .config import StreamConfig
from .ledger import FrameLedger
from .state import Blend, StreamState
from .state_file import (
    check_types,
    config_from_json,
    config_to_json,
    read,
    read_metadata,
    refuse_altered,
    write_state,
)
from .step import reserve

KIND, VERSION = "rivulet stream", 2
MAY_DIFFER = ("seed", "cfg", "sigmas", "first_sigmas")  # when a stream goes on; the prompt may, too
PICTURES = ("ending_HWC", "lost_HWC")  # of the ledger

NONE = type(None)
HEADER = {
    "block": (int,),
    "start_frame": (int,),
    "ledger": (dict,),
    "text": (str, NONE),
    "followed": (bool,),
}
TYPES = HEADER | {
    "weights": (dict, NONE),
    "table": (list,),
    "cache": (dict,),
    "memory": (dict,),
    "blend": (list, NONE),
    "must_recache": (bool,),
    "steered": (bool,),
}


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


@dataclass(frozen=True, slots=True)
class Captured:
    """A state's copy in the host's own memory; the stream may go on and reuse everything it was copied from.

    From a card the copies may still be under way: `write` waits for them.
    """

    block: int  # blocks made
    frame: int  # pixel frames of the whole video, all of which a file must hold before this is written
    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    copied: Sequence[torch.Event]  # one a card

    @property
    def bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def save(caller: Caller, state: StreamState, path: str | Path, decoder: StreamDecoder | None = None) -> int:
    """`capture` and `write` in one."""
    return write(capture(caller, state, decoder), path)


@torch.inference_mode()
def capture(caller: Caller, state: StreamState, decoder: StreamDecoder | None) -> Captured:
    """The state in memory of its own, for `write`; to be called by whoever makes the blocks, between two.

    decoder: that of the stream; None where its latents are never shown. Nobody waits for a card. Raises
    RuntimeError where the state can be read no more.
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
    for device in {t.device for named in parts.values() for t in named.values() if t.is_cuda}:
        torch.cuda.synchronize(device)  # another stream may be decoding still
    # one by one: what lies side by side only after a copy is copied here and not on a card
    tensors = {
        f"{part}.{name}": t.cpu().contiguous() for part, named in parts.items() for name, t in named.items()
    }
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
        "shrunk": state.shrunk,
    }
    tensors = {**tensors, "tail": state.tail_BCTHW.cpu().contiguous()}
    return Captured(state.block, state.ledger.written, about, tensors, ())


def write(captured: Captured, path: str | Path) -> int:
    """Writes a file that appears under its name only when it is whole and on disk; its bytes. Any thread.

    Raises OSError where it cannot be written.
    """
    for event in captured.copied:
        event.synchronize()
    return write_state(Path(path), KIND, VERSION, captured.about, captured.tensors)


@torch.inference_mode()
def load(
    path: str | Path,
    caller: Caller,
    config: StreamConfig | None = None,
    *,
    cache: CacheFormat = DENSE,
    memory: MemoryPolicy = OFF,
    decoder: StreamDecoder | None = None,
) -> StreamState:
    """The saved state on the caller's device; it goes on as if it had never stopped.

    config: what of MAY_DIFFER it says holds from here on; None: the saved one. decoder: that of the stream.
    ValueError for a file whose sizes are not the model's, whose frames are kept in another format than
    `cache`, that remembers in another way than `memory`, whose contract is another, or that was made with
    other weights.
    """
    path = Path(path)
    about, tensors = read(path, KIND, VERSION)
    # what is a view of the file may lie at any address, by which products on a CPU are rounded; a cache is
    # copied into its slots
    tensors = {name: t if name.startswith("cache.") else t.clone() for name, t in tensors.items()}
    with refuse_altered(path):
        check_types(about, TYPES)
        check_types({"shrunk": (shrunk := about.get("shrunk"))}, {"shrunk": (str, NONE)})
        for numbers in (about["table"], about["blend"] or []):
            check_types(dict(enumerate(numbers)), dict.fromkeys(range(len(numbers)), (int,)))
        header, shape, table = _header(about), CacheShape(**about["shape"]), tuple(about["table"])
        made_with = about["weights"] and {kind: read_back(n) for kind, n in about["weights"].items()}
        prompt, ledger = caller.load(_under("prompt", tensors)), _under("ledger", tensors)
        blend = about["blend"] and Blend(caller.load(_under("blend", tensors)), *about["blend"])
        ledger, tail_BCTHW = replace(header.ledger, **ledger), tensors["tail"].to(caller.device)
    saved = header.config
    config = saved if config is None else config
    _refuse_other_contract(
        path,
        _contract(saved, cache=about["cache"], memory=about["memory"]),
        _contract(config, cache=cache.spec(), memory=memory.spec()),
        "" if shrunk is None else f" Its cache was {shrunk}; then the card was full.",
    )
    present = add_memory_tokens(memory, caller.shape(prompt, config), config.positions, cache.cost)
    _refuse_other_contract(path, asdict(shape), asdict(present))
    if made_with is not None:
        caller.expect(made_with, path.name, config)
    reserve(caller, cache, shape, len(table), config.dtype)
    with refuse_altered(path):
        frames = cache.restore(
            caller.tree, shape, table, _under("cache", tensors), config.dtype, caller.device
        )
        held = {name: tensor.to(caller.device) for name, tensor in _under("memory", tensors).items()}
        remembered, past = memory.restore(held), from_tensors(_under("past", tensors))
    return StreamState(
        config, cache, memory, header.block, header.start_frame, frames, remembered, prompt, tail_BCTHW,
        blend, about["must_recache"], past, ledger, header.text, header.followed, about["steered"],
        shrunk,
    )  # fmt: skip


def read_header(path: Path) -> Header:
    """What the snapshot says of itself; ValueError for another kind of file, or another release's."""
    about = read_metadata(path, KIND, VERSION)
    with refuse_altered(path):
        return _header(about)


def read_ending(path: Path) -> tuple[Header, Tensor]:
    """The header and the newest latents [B, C, T, H, W] in the model's units, on the CPU."""
    header = read_header(path)
    return header, read(path, KIND, VERSION, only=("tail",))[1]["tail"]


def _header(about: Mapping[str, Any]) -> Header:
    check_types(about, HEADER)
    unusual = {"limit": (int, NONE), "fps": (float, int, NONE)}
    counts = {f.name: unusual.get(f.name, (int,)) for f in fields(FrameLedger)}
    check_types(about["ledger"], {name: types for name, types in counts.items() if name not in PICTURES})
    ledger, config = FrameLedger(**about["ledger"]), config_from_json(about["config"])
    return Header(config, about["block"], about["start_frame"], ledger, about["text"], about["followed"])


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = part + "."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _contract(config: StreamConfig, **specs: Mapping[str, object]) -> dict[str, Any]:
    """What must be the same when a stream goes on, as JSON has it."""
    same = {name: value for name, value in config_to_json(config).items() if name not in MAY_DIFFER}
    return json.loads(json.dumps({**same, **{name: dict(spec) for name, spec in specs.items()}}))


def _refuse_other_contract(
    path: Path, saved: Mapping[str, Any], asked: Mapping[str, Any], told: str = ""
) -> None:
    names = [name for name in saved if saved[name] != asked[name]]
    if names:
        said = "; ".join(_difference(name, saved[name], asked[name]) for name in names)
        raise ValueError(
            f"Resume: the take in {path.name} was made with {said}.{told} Give it the same model, size, "
            f"preset, block, cache and memory, and guidance where it had guidance; or begin a new stream."
        )


def _difference(name: str, saved: Any, asked: Any) -> str:
    if isinstance(saved, dict) and isinstance(asked, dict):
        if saved.get("name") != asked.get("name"):
            return f"{name} {saved.get('name')}, not {asked.get('name')}"
        parts = [key for key in {**saved, **asked} if saved.get(key) != asked.get(key)]
        return ", ".join(f"{name} {key} {saved.get(key)}, not {asked.get(key)}" for key in parts)
    return f"{name.replace('_', ' ')} {saved}, not {asked}"
