"""The table of cache formats: to add one, write its module and list it here."""

from __future__ import annotations

import math
import reprlib

import torch

from ..arch.tree import DiTTree, width_of
from . import dense, int8, latent, mla
from .kind import CacheKind
from .shapes import CacheShape

FORMATS: dict[str, CacheKind] = {
    kind.name: kind for kind in (dense.KIND, int8.KIND, latent.KIND, mla.KIND, mla.INT8_KIND)
}


def find_format(name: str, where: str = "Cache") -> CacheKind:
    """The kind of this name; ValueError, starting with `where`, with the list of names for any other."""
    if name not in FORMATS:
        raise ValueError(
            f"{where}: there is no format {reprlib.repr(name)}; choose one of {', '.join(FORMATS)}."
        )
    return FORMATS[name]


def compatible_formats(model: DiTTree) -> list[CacheKind]:
    """Kinds for this model, in table order, without those larger than a lossless one."""
    sizes = {kind: token_bytes(kind, model) for kind in FORMATS.values() if kind.why_not(model) is None}
    least = min((size for kind, size in sizes.items() if not kind.rounds), default=math.inf)
    return [kind for kind, size in sizes.items() if size < least or (size == least and not kind.rounds)]


def token_bytes(kind: CacheKind, model: DiTTree) -> float:
    """Bytes per token, layer and batch row on this model in bfloat16."""
    heads = model.num_heads
    shape = CacheShape(len(model.blocks), 1, 1, 1, heads, width_of(model) // heads)
    return kind.cost(model).token_bytes(shape, torch.bfloat16)
