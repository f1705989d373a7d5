"""A published checkpoint, read: its tensors under the names of the engine's layers, and what was found."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..arch.mla import MlaModel
from ..arch.wan import WanModel
from ._diffusers_keys import is_diffusers, wan_key
from ._families import DENSE, Structure, own_keys, structure_of
from ._mla import MlaFile, read_mla
from ._mla_keys import HEADS_MIXED
from ._sizes import compute_dtype, overrides
from .files import Shapes, some
from .nesting import MEMORY, Nested, read_nested

SHARD = re.compile(r"-\d{5}-of-(\d{5})\.")  # of a file's name, where a model is published in parts


@dataclass(frozen=True, slots=True)
class Published:
    """What a file holds. Tensors are those of the file, mapped where they can be, not copies."""

    path: Path
    structure: Structure
    tensors: dict[str, Tensor]  # of the diffusion model, scales of quantised weights beside them
    memory: Mapping[str, Tensor]  # of the memory encoder, by its own names
    metadata: Mapping[str, str]
    nest: tuple[str, ...]  # dicts the weights lay in
    beside: tuple[str, ...]  # of those that were left
    prefix: str  # cut off the first key
    diffusers: bool  # names were diffusers'
    mla: MlaFile | None  # how VideoMLA's layers lay in it

    def __str__(self) -> str:
        lines = [
            f"{self.path.name}: {self.structure}; {len(self.tensors)} tensors, every one in its place"
            + (f", from {' / '.join(self.nest)}" if self.nest else "")
            + (f" (left: {', '.join(self.beside)})" if self.beside else "")
            + (f", prefix {self.prefix!r} cut off" if self.prefix else "")
            + (", diffusers' names read as Wan's" if self.diffusers else "")
            + "."
        ]
        if self.memory:
            lines.append(
                f"Memory encoder inside ({len(self.memory)} tensors): connect Evolving Memory to use it."
            )
        return "\n".join([*lines, *([str(self.mla)] if self.mla else [])])


def read_published(
    where: str,
    path: Path,
    nest: str | None = None,
    prefer: Sequence[str] = (),
    *,
    bands: str | None = None,
    order: str = HEADS_MIXED[0],
) -> Published:
    """The checkpoint of a .safetensors or .pt file, whatever nesting, prefixes and names it has.

    where: begins an error. nest: which of several copies to take; None: the first of `prefer` there is,
    else an average. bands, order: for VideoMLA, see `mla_load.load_mla`. Raises ValueError, in a sentence
    with the next step, for anything but Wan 2.1 text to video with every tensor there and none left over.
    """
    if part := SHARD.search(path.name):
        raise ValueError(
            f"{where}: {path} is one of {int(part[1])} parts of a model, which is read from a single file. "
            f"Take the model's single-file version, or join the parts into one .safetensors file."
        )
    found = read_nested(where, path, "a Wan 2.1 checkpoint", nest, prefer=prefer)
    renamed = is_diffusers(found.tensors)
    tensors = {wan_key(k): v for k, v in found.tensors.items()} if renamed else dict(found.tensors)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    sizes = overrides(found.metadata, path)
    structure = structure_of(where, path.name, shapes, sizes)
    memory = {k.removeprefix(MEMORY): tensors.pop(k) for k in list(tensors) if k.startswith(MEMORY)}
    mla = None
    if structure.kind == DENSE:
        _match(where, path, shapes, structure)
    else:
        mla = read_mla(where, path, Nested(tensors, found.metadata), bands, order)
        tensors = mla.tensors
    return Published(
        path,
        structure,
        tensors,
        memory,
        _with_sizes(found.metadata, structure, sizes),
        found.nest,
        found.beside,
        found.prefix,
        renamed,
        mla,
    )


def build(published: Published, dtype: torch.dtype | None = None) -> WanModel:
    """The engine's own model of a file that is not quantised, frozen; `dtype` None keeps the file's."""
    structure, path = published.structure, published.path
    if structure.quantised:
        raise ValueError(
            f"build: {path} has quantised weights with scales, which the engine's own layers cannot hold; "
            f"load it in ComfyUI, or take the file in bfloat16."
        )
    with torch.device("meta"):
        sizes = published.mla.sizes if published.mla else None
        model = MlaModel(structure.config, sizes) if sizes else WanModel(structure.config)
    dtype = compute_dtype(path, published.tensors, dtype)
    model.load_state_dict({key: value.to(dtype) for key, value in published.tensors.items()}, assign=True)
    return model.requires_grad_(False).eval()


def _match(where: str, path: Path, shapes: Shapes, structure: Structure) -> None:
    """Refuses keys that are missing or left over, and shapes that differ; packed weights have shapes of
    their own."""
    with torch.device("meta"):
        needed = {k: tuple(v.shape) for k, v in WanModel(structure.config).state_dict().items()}
    own = set(own_keys(shapes))
    missing, extra = sorted(needed.keys() - own), sorted(own - needed.keys())
    wrong = [
        f"{key} is {list(shapes[key])}, needs {list(shape)}"
        for key, shape in needed.items()
        if key in own and shapes[key] != shape and not structure.quantised
    ]
    if missing or extra or wrong:
        raise ValueError(
            f"{where}: {path} is {structure}, but lacks {len(missing)} of {len(needed)} tensors "
            f"({some(missing) or 'none'}), has {len(extra)} left over ({some(extra) or 'none'}) and "
            f"{len(wrong)} of other shapes ({some(wrong) or 'none'}). It is damaged, or a variant not "
            f"known here; copy or download it again, or choose another checkpoint."
        )


def _with_sizes(
    metadata: Mapping[str, str], structure: Structure, sizes: Mapping[str, object]
) -> Mapping[str, str]:
    """The metadata, the text width said in it: hosts take Wan's own where a file is silent."""
    config = structure.config
    told = {"text_dim": config.text_dim, "freq_dim": config.freq_dim, "num_heads": config.num_heads}
    return {**metadata, "config": json.dumps({"transformer": {**told, **sizes}})}
