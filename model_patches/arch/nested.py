"""Tensors of a training or model file: out of the dicts and wrappers that trainers put around them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Shapes, open_tensors, some

NESTS = ("generator_ema", "generator", "ema", "model", "state_dict", "module")  # in order of preference
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

    @property
    def shapes(self) -> Shapes:
        """Shape of every tensor."""
        return {key: tuple(value.shape) for key, value in self.tensors.items()}


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
    where: str, path: Path, wanted: str, nest: str | None = None, device: str | torch.device = "cpu"
) -> Nested:
    """The tensors of a .safetensors file or of a dict of dicts that torch.save wrote.

    where: begins an error. wanted: what the path should lead to. nest: which of several copies to take; None:
    an average where there is one, see `NESTS`.
    """
    if path.suffix == ".safetensors":
        with open_tensors(where, path, wanted, device=device) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return _plain(where, path, tensors, file.metadata() or {})
    found = unpickled(where, path, wanted)
    nested: list[str] = []
    beside: list[str] = []
    while isinstance(found, Mapping) and (inner := [k for k, v in found.items() if isinstance(v, Mapping)]):
        name = nest if nest in inner else next((name for name in NESTS if name in inner), None)
        if name is None:
            raise ValueError(
                f"{where}: {path} holds {some(map(str, inner))}; give the one to take as `nest`."
            )
        beside += [str(key) for key in found if key != name]
        nested.append(name)
        found = found[name]
    if nest is not None and nest not in nested:
        left = some(beside) or "none"
        raise ValueError(f"{where}: {path} has no {nest!r}; leave `nest` out, or give one of {left}.")
    strangers = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
    if strangers:
        raise ValueError(f"{where}: {some(strangers)} in {path} are no tensors; give a file of weights.")
    return _plain(where, path, found, {}, tuple(nested), tuple(beside))


def unpickled(where: str, path: Path, wanted: str) -> Any:
    """What torch.save wrote, tensors left on disk until they are read; anything but plain data is refused."""
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no file at {path}; give the path of {wanted}.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{where}: {path} ({path.stat().st_size:,} bytes) is not a whole file of plain tensors: "
            f"{str(error).splitlines()[0]}. Copy or download it again, or save its weights alone if it holds "
            f"more."
        ) from error


def _plain(
    where: str,
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    nest: tuple[str, ...] = (),
    beside: tuple[str, ...] = (),
) -> Nested:
    plain = {plain_key(key): value for key, value in tensors.items()}
    if len(plain) != len(tensors):
        raise ValueError(
            f"{where}: {path} holds {len(tensors) - len(plain)} keys twice once prefixes are cut off; give "
            f"the copy to take as `nest`."
        )
    first = next(iter(tensors), "")
    return Nested(plain, metadata, nest, beside, first.removesuffix(plain_key(first)))
