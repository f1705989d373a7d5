"""Reads a VideoMLA checkpoint: whatever nesting, prefixes and layout it has, every key accounted for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..arch.mla import MlaModel, MlaSizes
from ..arch.rotary import BANDS, RopeLayout
from ..arch.wan import WanConfig
from ._mla_keys import HEADS_MIXED, Reading, apart, read_layout
from ._sizes import compute_dtype, overrides, read_config
from .files import Shapes, some
from .kinds import refuse_other_kinds
from .nesting import Nested, read_nested

WHERE = "load_mla"


@dataclass(frozen=True, slots=True)
class MlaFile:
    """How VideoMLA's layers lie in a file, and its tensors under the names of `MlaModel`."""

    tensors: dict[str, Tensor]
    config: WanConfig
    sizes: MlaSizes
    reading: Reading
    bands: str  # which rotary bands were taken: the file does not say

    def __str__(self) -> str:
        widths, rope = self.reading.widths, self.sizes.rope
        lines = [
            f"{self.config.num_layers} layers of {self.config.dim}, {widths.heads} heads of "
            f"{widths.still} + {widths.turned}, latents {widths.kv_latent} and {widths.query_latent}; "
            f"{self.sizes.kept} numbers kept of a token and layer, dense {2 * self.config.dim}",
            f"biases: {', '.join(sorted(self.sizes.biases)) or 'none'}",
            f"rotary pairs {len(rope.time)}, {len(rope.row)}, {len(rope.column)}, bands {self.bands}"
            + (": assumed, the file does not say" if self.bands in BANDS else ""),
            str(self.reading),
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class MlaReport:
    """What was found in a file; its text is for a log."""

    path: Path
    nest: tuple[str, ...]  # keys of the dicts the weights lay in
    beside: tuple[str, ...]  # of the dicts that were left, such as an average's plain weights
    prefix: str  # that was cut off the first key
    config: WanConfig
    sizes: MlaSizes
    reading: Reading
    bands: str  # which rotary bands were taken: the file does not say
    keys: int

    def __str__(self) -> str:
        said = (
            f"VideoMLA checkpoint {self.path}: {self.keys} keys"
            + (f" in {' / '.join(self.nest)}" if self.nest else "")
            + (f", beside {', '.join(self.beside)}, which were left" if self.beside else "")
            + (f", prefix {self.prefix!r} cut off" if self.prefix else "")
        )
        return f"{said}\n{MlaFile({}, self.config, self.sizes, self.reading, self.bands)}"


def load_mla(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    nest: str | None = None,
    bands: str | None = None,
    order: str = HEADS_MIXED[0],
) -> tuple[MlaModel, MlaReport]:
    """The model of a .pt or .safetensors file, frozen, and what the file looked like.

    nest: which of several copies to take, such as `generator`; None: an average where there is one. bands:
    `truncated` or `derived` rotary bands, None: those the file says, else truncated. order: how fused
    up-projections lie. Raises ValueError where a key is missing, left over or open to two readings.
    """
    path = Path(path)
    found = read_nested(WHERE, path, "a VideoMLA checkpoint", nest, device)
    mla = read_mla(WHERE, path, found, bands, order)
    with torch.device("meta"):
        model = MlaModel(mla.config, mla.sizes)
    dtype = compute_dtype(path, mla.tensors, dtype)
    model.load_state_dict({key: value.to(device, dtype) for key, value in mla.tensors.items()}, assign=True)
    about = (mla.config, mla.sizes, mla.reading, mla.bands, len(found.tensors))
    report = MlaReport(path, found.nest, found.beside, found.prefix, *about)
    return model.requires_grad_(False).eval(), report


def read_mla(where: str, path: Path, found: Nested, bands: str | None, order: str) -> MlaFile:
    """The tensors of a file layer by layer, every one in its place. bands, order: see `load_mla`.

    where: begins an error. Raises ValueError where a key is missing, left over or open to two readings.
    """
    config = read_config(found.shapes, overrides(found.metadata, path))
    refuse_other_kinds(where, path, config.in_channels, config.out_channels)
    reading = read_layout(f"{where}: {path}", found.shapes, config.dim, config.num_heads, order)
    rope, said = _rope(where, found.metadata, reading, bands)
    widths = reading.widths
    sizes = MlaSizes(widths.kv_latent, widths.query_latent, rope, reading.biases)
    with torch.device("meta"):
        model = MlaModel(config, sizes)
    tensors = apart(found.tensors, reading)
    _match(where, path, {key: tuple(value.shape) for key, value in tensors.items()}, model)
    return MlaFile(tensors, config, sizes, reading, said)


def _rope(
    where: str, metadata: Mapping[str, str], reading: Reading, bands: str | None
) -> tuple[RopeLayout, str]:
    """(rotary layout, how it is called)."""
    widths = reading.widths
    stored = json.loads(metadata.get("config", "{}")).get("transformer", {}).get("rope_layout")
    if bands is None and stored is not None:
        layout = RopeLayout(**stored)
        if (layout.still, layout.turned) != (widths.still, widths.turned):
            raise ValueError(
                f"{where}: the metadata says heads of {layout.still} + {layout.turned} channels, the tensors "
                f"{widths.still} + {widths.turned}; the file was put together wrongly."
            )
        return layout, "of the file"
    if bands is not None and bands not in BANDS:
        raise ValueError(f"{where}: rotary bands are {' or '.join(BANDS)}, not {bands!r}.")
    name = bands or "truncated"
    return BANDS[name](widths.still + widths.turned, widths.turned), name


def _match(where: str, path: Path, got: Shapes, model: MlaModel) -> None:
    """Raises ValueError unless these are the model's keys and shapes, self-attentions and all else."""
    needed = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing, extra = sorted(needed.keys() - got.keys()), sorted(got.keys() - needed.keys())
    wrong = [f"{k} is {got[k]}, needs {needed[k]}" for k in needed if k in got and got[k] != needed[k]]
    if missing or extra or wrong:
        raise ValueError(
            f"{where}: {path} lacks {len(missing)} of {len(needed)} tensors ({some(missing) or 'none'}), has "
            f"{len(extra)} left over ({some(extra) or 'none'}) and {len(wrong)} of other shapes "
            f"({some(wrong) or 'none'}); a file is read only if every tensor has its place."
        )
