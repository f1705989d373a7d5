"""Loads a memory file: the encoder, with every key and shape checked, and its LoRA.

The published code allows missing keys, so a wrong file gives a random encoder without an error (arXiv
2606.04527, released code). Here such a file is refused.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch.wan import WanModel
from ..attention.rope import layout_of
from ..checkpoints.files import (
    FLOATS,
    check_shapes,
    compute_dtype,
    first_few,
    open_tensors,
    refuse_repetitions,
    shapes_of,
)
from ..checkpoints.limits import read_json
from ..checkpoints.lora import Lora
from ..checkpoints.lora_file import lora_from
from ..checkpoints.nesting import unpickle
from ..checkpoints.sealed import refuse_changed
from ..reason import dtype_name
from .coupling import training_of
from .encoder import EncoderConfig, MemoryEncoder
from .names import Names, sort_names
from .reorder import reorder_encoder
from .resize import Grid

WHERE = "load_memory"
WANTED = "a memory: Echo-Infinity's base file, its file of LoRA and memory, or one trained with Rivulet"
AGAIN = "Copy it again, or train it anew (python run.py train-memory)."
PUBLISHED: Grid = (3, 30, 52)  # 3 latent frames at 832 x 480
GRID = ("frames", "grid_height", "grid_width")
COUNTS = (*GRID, "num_heads", "rank")
LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True, slots=True, eq=False)
class MemoryFile:
    """A loaded memory, checked against its model; its text is for a log."""

    path: Path
    encoder: MemoryEncoder  # frozen
    lora: Lora | None
    fingerprint: str  # SHA-256 of the encoder's tensors as they are in the file
    metadata: Mapping[str, Any]  # the file's entry `memory`
    names: Names  # of the file's tensors
    coverage: tuple[int, int]  # linear layers of the model's blocks that the LoRA changes, and all of them
    in_model: bool = False  # the model's weights were trained with this memory: its LoRA is not used

    @property
    def trained(self) -> str:
        """The file's description of its training; without one its fingerprint."""
        return str(self.metadata.get("trained", f"fingerprint {self.fingerprint[:16]}"))

    @property
    def changes_the_model(self) -> bool:
        """Whether the weights are trained with the memory, by its LoRA or in the model itself."""
        return self.in_model or self.lora is not None

    def __str__(self) -> str:
        config, names = self.encoder.config, self.names
        training = training_of(config)
        lines = [
            f"memory {self.path}: {len(names.encoder)} tensors "
            + (f"under {names.root!r}" if names.root else "at the root")
            + (f"; not used: {', '.join(names.unused)}" if names.unused else "")
            + (f"; {names.others} tensors of the model not read" if names.others else ""),
            f"{config.layers} layers of {config.dim}, {config.num_heads} heads, {config.frames} x "
            f"{config.grid_height} x {config.grid_width} = {config.tokens} memory tokens, fingerprint "
            f"{self.fingerprint[:16]}",
            ("keys normed" if config.normalize_keys else "keys not normed")
            + f": trained with {'bounded' if training.bounded_ids else 'growing'} positions, "
            + ("and with a LoRA" if training.lora else "without a LoRA"),
            self._changes(),
        ]
        return "\n".join(lines)

    def _changes(self) -> str:
        if self.in_model:
            return "the model's own weights were trained with this memory: a LoRA in the file is not used"
        if self.lora is None:
            return "no LoRA"
        return (
            f"LoRA of rank {self.lora.ranks[0]}, scale {self.lora.scales[0]:g}: changes "
            f"{self.coverage[0]} of the {self.coverage[1]} linear layers in the model's blocks"
        )


def load_memory(
    path: str | Path,
    model: WanModel,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    grid: Grid | None = None,
    model_memory: str = "",
) -> MemoryFile:
    """The memory of a .safetensors or .pt file, checked against the model.

    model: or any module tree with Wan's names; its weights are not changed. dtype: of the encoder,
    None for the file's; the LoRA stays as stored. grid: frames, rows and columns of the state's tokens, None
    for the file's entry `memory`, else the published one. model_memory: fingerprint of the memory that the
    model's weights were trained with after conversion to VideoMLA's attention, "" for none: any other memory
    is refused, the encoder is reordered for its heads, and the LoRA, of the dense model, is not used.
    Raises FileNotFoundError, and ValueError for a missing, unknown or wrongly shaped tensor, for NaN, and
    for metadata or a LoRA that does not fit.
    """
    path = Path(path)
    with _open(path) as (names, read, metadata):
        sorted_names = sort_names(f"{WHERE}: {path}", names)
        tensors = {key: read(name) for key, name in sorted_names.encoder.items()}
        matrices = {key: read(name) for key, name in sorted_names.lora.items()}
    refuse_repetitions(WHERE, path, tensors | matrices)
    about = _memory_entry(path, metadata)
    config = _config(path, tensors, model, about, grid)
    encoder = _encoder(path, tensors, config)
    _check_numbers(path, tensors | matrices)
    fingerprint, lora = _fingerprint(tensors), None
    if model_memory:
        _check_same(path, fingerprint, model_memory)
    elif matrices:
        lora = lora_from(f"{WHERE}: {path}", matrices, about.get("alpha"))
        _check_lora(path, lora, model, about)
    dtype = compute_dtype(WHERE, path, dtype or tensors["query_init"].dtype)
    encoder.load_state_dict({key: value.to(device, dtype) for key, value in tensors.items()}, assign=True)
    coverage = (0, 0) if lora is None else lora.coverage(model)
    encoder.requires_grad_(False).eval()
    if model_memory:
        encoder = reorder_encoder(encoder, layout_of(model))
    return MemoryFile(path, encoder, lora, fingerprint, about, sorted_names, coverage, bool(model_memory))


@contextmanager
def _open(path: Path) -> Iterator[tuple[list[str], Callable[[str], Tensor], Mapping[str, str]]]:
    """(names, reader of one tensor, metadata); other tensors of a base file, gigabytes, are not read."""
    if path.suffix == ".safetensors":
        with open_tensors(WHERE, path, WANTED) as file:
            metadata = file.metadata() or {}
            if not refuse_changed(WHERE, path, AGAIN) and _memory_entry(path, metadata).get("sealed"):
                raise ValueError(
                    f"{WHERE}: {path} has lost its checksum, and may be altered elsewhere too. {AGAIN}"
                )
            yield list(file.keys()), file.get_tensor, metadata
    else:
        tensors = dict(_flatten(unpickle(WHERE, path, WANTED)))
        yield list(tensors), tensors.__getitem__, {}


def _flatten(value: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested dicts, with names joined by dots."""
    if isinstance(value, Tensor):
        yield prefix.removesuffix("."), value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}{key}.")


def _memory_entry(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The metadata's entry `memory`, {} for none; ValueError for invalid numbers."""
    about = read_json(WHERE, path, metadata, "memory")
    counts = {key: about[key] for key in COUNTS if key in about}
    wrong = [f"{key} {value!r}" for key, value in counts.items() if type(value) is not int or value < 1]
    alpha = about.get("alpha", 1)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        wrong.append(f"alpha {alpha!r}")
    if wrong:
        raise ValueError(
            f"{WHERE}: the metadata entry `memory` of {path} has {first_few(wrong)}; {', '.join(COUNTS)} are "
            f"whole numbers of 1 or more, alpha is greater than 0. Write the file again."
        )
    return about


def _config(
    path: Path, tensors: Mapping[str, Tensor], model: WanModel, about: Mapping[str, Any], grid: Grid | None
) -> EncoderConfig:
    """Sizes of the encoder, from tensor shapes, metadata and model."""
    dim, heads = model.head.modulation.shape[-1], model.num_heads
    if about.get("num_heads", heads) != heads:
        raise ValueError(
            f"{WHERE}: the memory in {path} is for {about['num_heads']} heads, the model has {heads}; "
            f"take the memory that was trained with this model."
        )
    shape = tuple(tensors["query_init"].shape) if "query_init" in tensors else (1, 1, dim)
    if len(shape) != 3 or shape[0] != 1:
        raise ValueError(
            f"{WHERE}: query_init in {path} is {list(shape)}, not [1, tokens, channels]; a memory with a "
            f"state for each of several groups of layers cannot be run."
        )
    if shape[2] != dim:
        raise ValueError(
            f"{WHERE}: the memory in {path} is for models of {shape[2]} channels, this one has {dim}; take "
            f"the memory that was trained with this model."
        )
    indices = [int(match[1]) for key in tensors if (match := LAYER.match(key))]
    frames, height, width = _grid(path, shape[1], about, grid) if "query_init" in tensors else (1, 1, 1)
    normed = "norm_k_out.weight" in tensors
    return EncoderConfig(dim, heads, frames, height, width, max(indices, default=0) + 1, normed)


def _grid(path: Path, tokens: int, about: Mapping[str, Any], grid: Grid | None) -> Grid:
    """Frames, rows and columns of so many tokens."""
    if grid is not None:
        (frames, height, width), source = grid, "asked for"
    elif all(key in about for key in GRID):
        (frames, height, width), source = (about[key] for key in GRID), "in the metadata entry `memory`"
    else:
        (frames, height, width), source = PUBLISHED, "published"
    if frames * height * width != tokens:
        raise ValueError(
            f"{WHERE}: the state in {path} has {tokens} tokens, the grid {source} is {frames} x {height} x "
            f"{width} = {frames * height * width}; give the frames, rows and columns it was trained for as "
            f"`grid`, or in a metadata entry `memory` as {', '.join(GRID)}."
        )
    return frames, height, width


def _encoder(path: Path, tensors: Mapping[str, Tensor], config: EncoderConfig) -> MemoryEncoder:
    """An encoder on the meta device; ValueError unless the tensors have its keys and shapes."""
    with torch.device("meta"):
        encoder = MemoryEncoder(config)
    shapes = shapes_of(tensors)
    sizes = f"the model has {config.dim} channels, and all layers must fit it"
    check_shapes(WHERE, path, shapes, encoder, "a whole memory encoder", sizes)
    return encoder


def _check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    packed = [
        f"{key} is {dtype_name(value.dtype)}" for key, value in tensors.items() if value.dtype not in FLOATS
    ]
    if packed:
        raise ValueError(
            f"{WHERE}: {len(packed)} tensors in {path} are not plain numbers ({first_few(packed)}); "
            f"give a file in {', '.join(map(dtype_name, FLOATS))}."
        )
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{WHERE}: {len(broken)} tensors in {path} hold NaN or infinite numbers ({first_few(broken)}); "
            f"copy or download it again."
        )


def _check_lora(path: Path, lora: Lora, model: WanModel, about: Mapping[str, Any]) -> None:
    """Raises ValueError for a LoRA of more than pairs, with several ranks or alphas, or of another model."""
    if beside := (*lora.added, *lora.unread):
        raise ValueError(
            f"{WHERE}: the LoRA in {path} changes {first_few(beside)} by more than pairs of matrices; "
            f"that of a memory has pairs alone. Write the file again."
        )
    rank, *others = lora.ranks
    if lora.alphas or others:
        raise ValueError(
            f"{WHERE}: the LoRA in {path} has ranks {first_few(map(str, lora.ranks))} and {lora.alphas} "
            f"layers with an alpha of their own; that of a memory has one rank, and one alpha in the "
            f"metadata entry `memory`. Write the file again."
        )
    if about.get("rank", rank) != rank:
        raise ValueError(
            f"{WHERE}: the metadata of {path} says a LoRA of rank {about['rank']}, its matrices have "
            f"{rank}; write the file again."
        )
    if refusal := lora.why_not(model):
        raise ValueError(f"{WHERE}: {path}: {refusal}")


def _check_same(path: Path, fingerprint: str, model_memory: str) -> None:
    if fingerprint != model_memory:
        raise ValueError(
            f"{WHERE}: the memory in {path} has the fingerprint {fingerprint[:16]}, the model was trained "
            f"with {model_memory[:16]}; take the memory it was trained with, or the model before conversion."
        )


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
