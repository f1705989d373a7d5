"""VideoMLA's layers in a checkpoint, whatever layout they have there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..arch.mla import MlaSizes
from ..arch.rotary import BANDS, RopeLayout
from ..arch.wan import WanConfig
from ._mla_keys import Layout, read_layout, split_layers
from ._sizes import stored_sizes
from .files import refuse_repetitions, shapes_of
from .limits import reading


@dataclass(frozen=True, slots=True)
class MlaLayers:
    """How VideoMLA's layers lie in a file, and its tensors under the names of `MlaModel`."""

    tensors: dict[str, Tensor]
    config: WanConfig
    sizes: MlaSizes
    layout: Layout
    bands: str  # of the rotary key: a name of `rotary.BANDS`, which no file says, or `of the file`

    def __str__(self) -> str:
        widths, rope = self.layout.widths, self.sizes.rope
        lines = [
            f"{self.config.num_layers} layers of {self.config.dim}, {widths.heads} heads of "
            f"{widths.still} + {widths.turned}, latents {widths.kv_latent} and {widths.query_latent}; "
            f"{self.sizes.cache_channels} numbers kept of a token and layer, dense {2 * self.config.dim}",
            f"biases: {', '.join(sorted(self.sizes.biases)) or 'none'}",
            f"rotary pairs {len(rope.time)}, {len(rope.row)}, {len(rope.column)}, bands {self.bands}"
            + (": assumed, the file does not say" if self.bands in BANDS else ""),
            str(self.layout),
        ]
        return "\n".join(lines)


def read_mla(
    where: str,
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    config: WanConfig,
    bands: str | None,
    order: str,
) -> MlaLayers:
    """The tensors of a file layer by layer.

    where: begins an error. bands: of the rotary key, a name of `rotary.BANDS`; None: the file's, else
    truncated. order: how fused up-projections lie, one of `FUSED_ORDERS`. Raises ValueError where a
    self-attention is not laid out in a way that is known.
    """
    layout = read_layout(f"{where}: {path}", shapes_of(tensors), config.dim, config.num_heads, order)
    rope, name = _rope(where, path, metadata, layout, bands)
    sizes = MlaSizes(layout.widths.kv_latent, layout.widths.query_latent, rope, layout.biases)
    refuse_repetitions(where, path, tensors)  # they are copied here
    return MlaLayers(split_layers(tensors, layout), config, sizes, layout, name)


def _rope(
    where: str, path: Path, metadata: Mapping[str, str], layout: Layout, bands: str | None
) -> tuple[RopeLayout, str]:
    """(rotary layout, how it is called)."""
    widths = layout.widths
    stored: Any = stored_sizes(where, path, metadata).get("rope_layout")
    if bands is None and stored is not None:
        with reading(where, path, "config"):
            rope = RopeLayout(**stored)
        if (rope.still, rope.turned) != (widths.still, widths.turned):
            raise ValueError(
                f"{where}: the metadata of {path} says heads of {rope.still} + {rope.turned} channels, the "
                f"tensors {widths.still} + {widths.turned}; the file was put together wrongly. Convert it "
                f"again."
            )
        return rope, "of the file"
    if bands is not None and bands not in BANDS:
        raise ValueError(f"{where}: rotary bands are {' or '.join(BANDS)}, not {bands!r}.")
    name = bands or "truncated"
    return BANDS[name](widths.still + widths.turned, widths.turned), name
