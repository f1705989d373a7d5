"""Tensors of a training or model file: out of the dicts and wrappers that trainers put around them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import Shapes, open_tensors, some, why_no_weights

SAFETENSORS = (".safetensors", ".sft")
NESTS = ("generator_ema", "generator", "ema", "model", "state_dict", "module")  # in order of preference
ADAPTERS = ("generator_lora", "lora")  # dicts that hold a difference to a model
MEMORY = "query_memory_encoder."  # begins the keys of Echo-Infinity's memory encoder
WHOLE = "model.diffusion_model."  # begins the model's keys in a file that holds its VAE and text encoder too
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # what a refused pickle wanted, in torch's words
WRAPPERS = re.compile(r"(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
PREFIXES = ("module.", "model.", "diffusion_model.", "generator.", "generator_ema.", "net.")


@dataclass(frozen=True, slots=True)
class Nested:
    """What a file held."""

    tensors: Mapping[str, Tensor]  # by keys without prefixes
    metadata: Mapping[str, str]
    nest: tuple[str, ...] = ()  # keys of the dicts the tensors lay in
    beside: tuple[str, ...] = ()  # of what was left there
    prefix: str = ""  # that was cut off the first key


def plain_key(key: str) -> str:
    """The key without what trainers and wrappers put around it."""
    key = WRAPPERS.sub("", key)
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key


def is_mla(shapes: Shapes) -> bool:
    """Whether keys, prefixes or not, are of latents rather than of dense self-attentions."""
    plain = {plain_key(key) for key in shapes}
    return "blocks.0.self_attn.k.weight" not in plain and any(
        key.startswith("blocks.0.self_attn.") for key in plain
    )


def read_nested(
    where: str,
    path: Path,
    wanted: str,
    nest: str | None = None,
    prefer: str | None = None,
) -> Nested:
    """The tensors of a .safetensors file or of a dict of dicts that torch.save wrote; not copied into memory
    where the file can be mapped.

    where: begins an error. wanted: what the path should lead to. nest: which of several copies to take; None:
    `prefer` if it is there, then an average where there is one, see `NESTS`.
    """
    found, metadata = read_raw(where, path, wanted)
    nested: list[str] = []
    beside: list[str] = []
    while inner := [str(key) for key, value in found.items() if isinstance(value, Mapping)]:
        name = nest if nest in inner else next((name for name in (prefer, *NESTS) if name in inner), None)
        if name is None:
            raise ValueError(_why_no_nest(where, path, inner))
        beside += [str(key) for key in found if key != name]
        nested.append(name)
        found = found[name]
    if nest is not None and nest not in nested:
        left = some(beside) or "none"
        raise ValueError(f"{where}: {path} has no {nest!r}; leave `nest` out, or give one of {left}.")
    strangers = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
    if strangers:
        raise ValueError(f"{where}: {some(strangers)} in {path} are no tensors; give a file of weights.")
    return _plain(where, path, found, metadata, tuple(nested), tuple(beside))


def read_raw(where: str, path: Path, wanted: str) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """(what lies in the file, as it lies there; its metadata). Nothing of the file is run."""
    if path.suffix.lower() in SAFETENSORS:
        with open_tensors(where, path, wanted) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    found = unpickled(where, path, wanted)
    if not isinstance(found, Mapping):
        kind = type(found).__name__
        raise ValueError(f"{where}: {path} holds a {kind}, not tensors by name; give {wanted}.")
    return found, {}


def unpickled(where: str, path: Path, wanted: str) -> Any:
    """What torch.save wrote, tensors left on disk until they are read; anything but plain data is refused."""
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no file at {path}; give the path of {wanted}.")
    if stranger := why_no_weights(path):
        raise ValueError(f"{where}: {stranger}")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # written before torch 1.6
    except MemoryError:
        raise
    except Exception as error:  # bytes that are no pickle can end anywhere
        raise ValueError(_why_not_loaded(where, path, error)) from error


def _why_not_loaded(where: str, path: Path, error: Exception) -> str:
    size = f"{path} ({path.stat().st_size:,} bytes)"
    if wanted := GLOBAL.search(str(error)):
        return (
            f"{where}: {size} is not opened: beside tensors it asks for {wanted[1]}, and a file that may "
            f"call functions can run any code. Take it as .safetensors, or have someone who trusts it save "
            f"its weights alone."
        )
    said = (str(error) or "it is empty").splitlines()[0]
    return f"{where}: {size} is not a whole file of plain tensors: {said}. Copy or download it again."


def _why_no_nest(where: str, path: Path, inner: Sequence[str]) -> str:
    if adapter := next((name for name in ADAPTERS if name in inner), None):
        return (
            f"{where}: {path} holds a LoRA ({adapter}), which changes a model and is none; load the "
            f"checkpoint that it belongs to, and give this file as its LoRA."
        )
    return f"{where}: {path} holds {some(inner)}; give the one to take as `nest`."


def _plain(
    where: str,
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    nest: tuple[str, ...] = (),
    beside: tuple[str, ...] = (),
) -> Nested:
    whole = {key: value for key, value in tensors.items() if key.startswith(WHOLE)}
    if whole:
        beside = (*beside, *sorted({key.split(".")[0] for key in tensors if key not in whole}))
        tensors = whole
    plain = {plain_key(key): value for key, value in tensors.items()}
    if len(plain) != len(tensors):
        raise ValueError(
            f"{where}: {path} holds {len(tensors) - len(plain)} keys twice once prefixes are cut off; give "
            f"the copy to take as `nest`."
        )
    first = next(iter(tensors), "")
    return Nested(plain, metadata, nest, beside, first.removesuffix(plain_key(first)))
