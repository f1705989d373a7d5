"""The tensors of a model's or a training's file, without the dicts, wrappers and prefixes of trainers."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import MAX_REASON, Shapes, first_few, open_tensors, why_no_weights
from .limits import MAX_KEY_LETTERS, plain, why_not_content, why_not_pickled

SAFETENSORS = (".safetensors", ".sft")
NESTS = ("generator_ema", "generator", "ema", "model", "state_dict", "module")  # in order of preference
ADAPTERS = ("generator_lora", "lora")  # dicts that hold a difference to a model
MEMORY = "query_memory_encoder."  # begins the keys of Echo-Infinity's memory encoder
WHOLE = "model.diffusion_model."  # begins the model's keys in a file that holds its VAE and text encoder too
WRAPPERS = re.compile(r"(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
PREFIXES = ("module.", "model.", "diffusion_model.", "generator.", "generator_ema.", "net.")


@dataclass(frozen=True, slots=True)
class FileTensors:
    """One copy of the weights in a file."""

    tensors: Mapping[str, Tensor]  # by keys without prefixes
    metadata: Mapping[str, str]
    nest: tuple[str, ...] = ()  # keys of the dicts that hold the tensors, outermost first
    unused: tuple[str, ...] = ()  # keys of what else these dicts hold
    prefix: str = ""  # of the first key, as the file has it


def plain_key(key: str) -> str:
    """The key without trainers' wrappers and prefixes, such as `model._fsdp_wrapped_module.`."""
    key = WRAPPERS.sub("", key)
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key


def is_mla(shapes: Shapes) -> bool:
    """Whether block 0 has a self-attention without Wan's dense `k`, as VideoMLA's; keys may have prefixes."""
    plain = {plain_key(key) for key in shapes}
    return "blocks.0.self_attn.k.weight" not in plain and any(
        key.startswith("blocks.0.self_attn.") for key in plain
    )


def read_tensors(
    where: str,
    path: Path,
    wanted: str,
    copy: str | None = None,
    prefer: str | None = None,
) -> FileTensors:
    """The tensors of a .safetensors file or of a dict of dicts that torch.save wrote; not copied into memory
    where the file can be mapped.

    where: begins an error. wanted: what the path should lead to. copy: which of several to take, by its key;
    None: `prefer` if it is there, else an average where there is one, see `NESTS`. Raises FileNotFoundError,
    and ValueError for a copy that is not there, no dict that is known, and values that are no tensors.
    """
    content, metadata = read_raw(where, path, wanted)
    nest: list[str] = []
    unused: list[str] = []
    copies: list[str] = []
    while inner := [str(key) for key, value in content.items() if isinstance(value, Mapping)]:
        name = copy if copy in inner else next((name for name in (prefer, *NESTS) if name in inner), None)
        if name is None:
            raise ValueError(_why_no_weights(where, path, inner))
        copies += inner
        unused += [str(key) for key in content if key != name]
        nest.append(name)
        content = content[name]
    if copy is not None and copy not in nest:
        which = f"there are {', '.join(copies)}" if copies else "it has one copy, without a name"
        raise ValueError(f"{where}: {path} has no weights called {copy!r}; {which}. Choose another copy.")
    others = [
        str(key)
        for key, value in content.items()
        if not isinstance(value, Tensor) or not isinstance(key, str) or len(key) > MAX_KEY_LETTERS
    ]
    if others:
        raise ValueError(
            f"{where}: {first_few(others)} in {path} are no tensors by name; give a file of weights."
        )
    return _without_prefixes(where, path, content, metadata, tuple(nest), tuple(unused))


def read_raw(where: str, path: Path, wanted: str) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """(the file's tensors by key, or its dicts of them; its metadata). No code in the file is run."""
    if path.suffix.lower() in SAFETENSORS:
        with open_tensors(where, path, wanted) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    content = unpickle(where, path, wanted)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise ValueError(f"{where}: {path} holds a {kind}, not tensors by name; give {wanted}.")
    return content, {}


def unpickle(where: str, path: Path, wanted: str) -> Any:
    """What torch.save wrote, mapped where it can be; ValueError for anything but plain data and tensors."""
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no file at {path}; give the path of {wanted}.")
    if reason := why_no_weights(path):
        raise ValueError(f"{where}: {reason}")
    try:
        refusal = why_not_pickled(path)
        content = None if refusal else _load(path)
    except MemoryError:
        raise
    except Exception as error:  # bytes that are no pickle can end anywhere
        raise ValueError(_why_not_loaded(where, path, error)) from error
    if refusal := refusal or why_not_content(content):
        raise ValueError(f"{where}: {path} ({path.stat().st_size:,} bytes) {refusal}")
    return plain(content)


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # written before torch 1.6


def _why_not_loaded(where: str, path: Path, error: Exception) -> str:
    reason = (str(error) or "it is empty").splitlines()[0][:MAX_REASON]
    if isinstance(error, pickle.UnpicklingError):  # torch's words advise to run what is in the file
        reason = "there is more in it, or less"
    return (
        f"{where}: {path} ({path.stat().st_size:,} bytes) is not a whole file of plain tensors: {reason}. "
        f"Copy or download it again."
    )


def _why_no_weights(where: str, path: Path, inner: Sequence[str]) -> str:
    if adapter := next((name for name in ADAPTERS if name in inner), None):
        return (
            f"{where}: {path} holds a LoRA ({adapter}), which changes a model and is none; load the "
            f"checkpoint that it belongs to, and give this file as its LoRA."
        )
    return f"{where}: {path} holds {first_few(inner)}, none known as a model's weights; name the one to take."


def _without_prefixes(
    where: str,
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    nest: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> FileTensors:
    whole = {key: value for key, value in tensors.items() if key.startswith(WHOLE)}
    if whole:
        unused = (*unused, *sorted({key.split(".")[0] for key in tensors if key not in whole}))
        tensors = whole
    plain = {plain_key(key): value for key, value in tensors.items()}
    if len(plain) != len(tensors):
        raise ValueError(
            f"{where}: {path} holds {len(tensors) - len(plain)} keys twice once prefixes are cut off; save "
            f"one copy of the weights alone."
        )
    first = next(iter(tensors), "")
    return FileTensors(plain, metadata, nest, unused, first.removesuffix(plain_key(first)))
