"""The door to checkpoints: a file opened and checked, what it is, its recipe, and its weights as a model.

Every reader of a diffusion model's file comes in here. How its keys are named, which variant of Wan it is and
how VideoMLA's layers lie in it are known in the rooms behind, the modules of this folder that begin with `_`.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..arch.mla import MlaModel
from ..arch.wan import WanConfig, WanModel
from ..geometry import LATENT_CHANNELS
from ._diffusers_keys import is_diffusers, wan_key
from ._families import DENSE, VIDEO_MLA, Structure, model_keys, structure_of
from ._mla import MlaLayers, read_mla
from ._mla_keys import FUSED_ORDERS
from ._sizes import stored_sizes
from .files import Shapes, compute_dtype, first_few, refuse_repetitions, shapes_of
from .nesting import MEMORY, read_tensors
from .recipes import Choice, choose, find_recipe
from .wan22 import expert_warning

SHARD = re.compile(r"-\d{5}-of-(\d{5})\.")  # of a file's name, where a model is published in parts
WANTED = {DENSE: "Wan's dense attention", VIDEO_MLA: "VideoMLA's attention"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds. Tensors are those of the file, mapped where they can be, not copies."""

    path: Path
    structure: Structure
    tensors: dict[str, Tensor]  # of the diffusion model, scales of quantised weights beside them
    memory: Mapping[str, Tensor]  # of the memory encoder, by its own names
    metadata: Mapping[str, str]  # as it stands in the file
    nest: tuple[str, ...]  # keys of the dicts that hold the weights, outermost first
    unused: tuple[str, ...]  # keys of what else these dicts hold
    prefix: str  # of the first key, as the file has it
    diffusers: bool  # whether the file has diffusers' names
    mla: MlaLayers | None  # how VideoMLA's layers lie in it

    @property
    def kind(self) -> str:
        """Which self-attention: DENSE or VIDEO_MLA."""
        return self.structure.kind

    @property
    def config(self) -> WanConfig:
        """Sizes of the model."""
        return self.structure.config

    def recipe(self, name: str | None = None, file: str | None = None) -> Choice:
        """How the file wants to be streamed, and why.

        name: a record the user chose; None: by keys and shapes, then by words of the file's name. file: that
        name with the folders that may say more, None: the name alone. Raises ValueError for a record of
        another self-attention, and where no published model has this kind and size.
        """
        return choose(self.structure, file or self.path.name, name)

    def metadata_with_sizes(self) -> dict[str, str]:
        """The metadata, and in it the sizes that a host would otherwise take from Wan's own models."""
        config = self.config
        sizes = {"text_dim": config.text_dim, "freq_dim": config.freq_dim, "num_heads": config.num_heads}
        stored = stored_sizes("Checkpoint", self.path, self.metadata)
        return {**self.metadata, "config": json.dumps({"transformer": {**sizes, **stored}})}

    def refuse_repetitions(self, where: str) -> None:
        """ValueError, beginning with `where`, if the tensors need far more memory than the file has bytes."""
        refuse_repetitions(where, self.path, self.tensors)

    def load(self, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> WanModel:
        """The engine's own model with these weights, frozen; `dtype` None is the file's.

        An `MlaModel` where the kind is VIDEO_MLA. Raises ValueError for weights that are quantised, and for
        a dtype that layers cannot compute in. A file that is called like an expert of Wan 2.2's 14B is
        loaded with a warning.
        """
        if self.structure.quantised:
            raise ValueError(
                f"Checkpoint: {self.path} has quantised weights with scales, which the engine's own layers "
                f"cannot hold; load it in ComfyUI, or take the file in bfloat16."
            )
        self.refuse_repetitions("Checkpoint")
        if warning := expert_warning(self.path.name):
            warnings.warn(f"Checkpoint: {warning}", stacklevel=2)
        dtype = compute_dtype("Checkpoint", self.path, dtype or self.tensors["patch_embedding.weight"].dtype)
        model = _layers(self.config, self.mla)
        tensors = {key: value.to(device, dtype) for key, value in self.tensors.items()}
        model.load_state_dict(tensors, assign=True)
        return model.requires_grad_(False).eval()

    def __str__(self) -> str:
        lines = [
            f"{self.path.name}: {self.structure}; {len(self.tensors)} tensors, every one in its place"
            + (f", from {' / '.join(self.nest)}" if self.nest else "")
            + (f" (left: {', '.join(self.unused)})" if self.unused else "")
            + (f", prefix {self.prefix!r} cut off" if self.prefix else "")
            + (", diffusers' names read as Wan's" if self.diffusers else "")
            + "."
        ]
        if self.memory:
            lines.append(
                f"Memory encoder inside ({len(self.memory)} tensors): connect Evolving Memory to use it."
            )
        return "\n".join([*lines, *([str(self.mla)] if self.mla else [])])


def open_checkpoint(
    path: Path,
    *,
    caller: str = "open_checkpoint",
    kind: str | None = None,
    channels: int | None = LATENT_CHANNELS,
    copy: str | None = None,
    prefer: str | None = None,
    bands: str | None = None,
    order: str = FUSED_ORDERS[0],
) -> Checkpoint:
    """The checkpoint of a .safetensors or .pt file, whatever nesting, prefixes and names it has.

    caller: begins an error. kind: the self-attention that is needed, DENSE or VIDEO_MLA; None: either.
    channels: of the latents that are needed; None: any. copy: which of several in the file, such as
    generator; None: `prefer` where it is there, else an average; beside a memory encoder the copy that
    Echo-Infinity's release runs. bands, order: what a VideoMLA file does not say, see `_mla.read_mla`. Raises
    FileNotFoundError, and ValueError, in a sentence with the next step, for anything but Wan 2.1 text to
    video with every tensor there and none left over.
    """
    if part := SHARD.search(path.name):
        raise ValueError(
            f"{caller}: {path} is one of {int(part[1])} parts of a model, which is read from a single file. "
            f"Take the model's single-file version, or join the parts into one .safetensors file."
        )
    file = read_tensors(caller, path, "a Wan 2.1 checkpoint", copy, prefer)
    if copy is None and prefer is None and any(key.startswith(MEMORY) for key in file.tensors):
        file = read_tensors(caller, path, "a Wan 2.1 checkpoint", None, find_recipe("echo_infinity").copy)
    diffusers = is_diffusers(file.tensors)
    tensors = {wan_key(k): v for k, v in file.tensors.items()} if diffusers else dict(file.tensors)
    sizes = stored_sizes(caller, path, file.metadata)
    structure = structure_of(caller, path.name, shapes_of(tensors), sizes, channels)
    _check_kind(caller, path, structure, kind)
    memory = {k.removeprefix(MEMORY): tensors.pop(k) for k in list(tensors) if k.startswith(MEMORY)}
    mla = None
    if structure.kind == VIDEO_MLA:
        mla = read_mla(caller, path, tensors, file.metadata, structure.config, bands, order)
        tensors = mla.tensors
    _match(caller, path, tensors, structure, mla)
    about = (file.metadata, file.nest, file.unused, file.prefix)
    return Checkpoint(path, structure, tensors, memory, *about, diffusers, mla)


def _check_kind(caller: str, path: Path, structure: Structure, kind: str | None) -> None:
    if kind is not None and structure.kind != kind:
        raise ValueError(
            f"{caller}: {path} is {structure}, and {WANTED[kind]} is needed here. Give such a file; "
            f"`python run.py convert-mla` makes one of VideoMLA's attention from a dense one."
        )


def _layers(config: WanConfig, mla: MlaLayers | None) -> WanModel:
    """The model's layers without weights."""
    with torch.device("meta"):
        return WanModel(config) if mla is None else MlaModel(config, mla.sizes)


def _match(
    caller: str, path: Path, tensors: Mapping[str, Tensor], structure: Structure, mla: MlaLayers | None
) -> None:
    """Refuses keys that are missing or left over, and shapes that differ; packed weights of a dense model
    have shapes of their own, and scales beside them."""
    needed, shapes = shapes_of(_layers(structure.config, mla).state_dict()), shapes_of(tensors)
    own = set(model_keys(shapes) if mla is None else shapes)
    packed = structure.quantised and mla is None
    missing, extra = sorted(needed.keys() - own), sorted(own - needed.keys())
    wrong = [] if packed else _unlike(shapes, needed)
    if missing or extra or wrong:
        raise ValueError(
            f"{caller}: {path} is {structure}, but lacks {len(missing)} of {len(needed)} tensors "
            f"({first_few(missing) or 'none'}), has {len(extra)} left over ({first_few(extra) or 'none'}) "
            f"and {len(wrong)} of other shapes ({first_few(wrong) or 'none'}). It is damaged, or a variant "
            f"not known here; copy or download it again, or choose another checkpoint."
        )


def _unlike(shapes: Shapes, needed: Shapes) -> list[str]:
    return [
        f"{key} is {list(shapes[key])}, needs {list(shape)}"
        for key, shape in needed.items()
        if key in shapes and shapes[key] != shape
    ]
