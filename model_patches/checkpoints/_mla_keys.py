"""Which tensors of a VideoMLA checkpoint are which layers of `arch.mla`, by name, checked by shape.

The published files could not be read when this was written: their sizes are known (arXiv 2605.30351), their
keys are not. Two sets of names are known: those of this project's own files, one matrix a layer, and those of
the author's earlier public prototype, in which projections are fused. A file with other names is refused with
the list of its keys. N heads, D head width, C width of the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from ..arch.mla import PROJECTIONS
from .files import Shapes, first_few

ATTENTION = re.compile(r"blocks\.(\d+)\.self_attn\.(.+)")
NAMES: Mapping[str, tuple[str, ...]] = {  # of a matrix: the layers that lie in it, one after the other
    **{layer: (layer,) for layer in PROJECTIONS},
    "W_q_downsampled": ("q_down",),
    "W_q_upsampled": ("q_up", "q_rope"),
    "W_kv_downsampled": ("kv_down", "k_rope"),
    "W_kv_upsampled": ("k_up", "v_up"),
    "W_o": ("o",),
}
NORM_Q, NORM_KV = "norm_q_latent", "norm_kv_latent"
WHOLE = {"q_down", "kv_down", "k_rope", "o"}  # layers that are not by head
FUSED_ORDERS = ("per head", "in blocks")  # of up-projections in one matrix: shapes cannot tell which
EXPECTED = (
    f"{NORM_Q}.weight, {NORM_KV}.weight and either {', '.join(PROJECTIONS)} or the author's prototype's "
    f"{', '.join(name for name in NAMES if name not in PROJECTIONS)}; each layer once, as `.weight` "
    f"(out, in) with or without `.bias`, or without an ending (in, out)"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Widths:
    """The sizes that tell the layers apart; the published ones are 12 heads of 96 + 32, 192 and 768."""

    dim: int
    heads: int
    still: int
    turned: int
    kv_latent: int
    query_latent: int

    def rows(self, layer: str) -> int:
        """Outputs of a layer."""
        heads, still, turned = self.heads, self.still, self.turned
        return {
            "q_down": self.query_latent,
            "q_up": heads * still,
            "q_rope": heads * turned,
            "kv_down": self.kv_latent,
            "k_rope": turned,
            "k_up": heads * still,
            "v_up": heads * (still + turned),
            "o": self.dim,
        }[layer]

    def columns(self, layer: str) -> int:
        """Inputs of a layer."""
        latents = {"q_up": self.query_latent, "q_rope": self.query_latent}
        latents |= {"k_up": self.kv_latent, "v_up": self.kv_latent}
        return latents.get(layer, self.dim)


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a self-attention and the layers of ours whose weights, or biases, it holds."""

    name: str  # below self_attn, as in the file
    layers: tuple[str, ...]
    kind: str  # weight, bias or norm
    transposed: bool = False  # (in, out)

    def shape(self, widths: Widths) -> tuple[int, ...]:
        """What its shape must be."""
        if self.kind == "norm":
            return (widths.query_latent if self.layers == (NORM_Q,) else widths.kv_latent,)
        rows = sum(widths.rows(layer) for layer in self.layers)
        if self.kind == "bias":
            return (rows,)
        columns = widths.columns(self.layers[0])
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the self-attentions of a file are laid out; its text is for a report."""

    widths: Widths
    pieces: tuple[Piece, ...]
    order: str = FUSED_ORDERS[0]

    @property
    def biases(self) -> frozenset[str]:
        """Layers that have one."""
        return frozenset(layer for piece in self.pieces if piece.kind == "bias" for layer in piece.layers)

    @property
    def fused(self) -> bool:
        """Whether an up-projection holds two layers, so that `order` matters."""
        return any(len(p.layers) > 1 and not WHOLE & set(p.layers) for p in self.pieces)

    def __str__(self) -> str:
        lines = [
            f"  {p.name} -> {' + '.join(p.layers)} {p.kind}{', (in, out)' if p.transposed else ''}"
            for p in self.pieces
        ]
        if self.fused:
            lines.append(f"  fused up-projections lie {self.order}: assumed, shapes cannot tell")
        return "\n".join(lines)

    def state_dict(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State dict of one `MlaAttention` from the tensors below one self_attn."""
        state: dict[str, Tensor] = {}
        for piece in self.pieces:
            tensor = tensors[piece.name]
            if piece.kind == "norm":
                state[f"{piece.layers[0]}.weight"] = tensor
                continue
            parts = self._split(tensor.mT if piece.transposed else tensor, piece.layers)
            state |= {f"{layer}.{piece.kind}": part for layer, part in zip(piece.layers, parts, strict=True)}
        return state

    def _split(self, tensor: Tensor, layers: Sequence[str]) -> list[Tensor]:
        sizes = [self.widths.rows(layer) for layer in layers]
        if len(layers) == 1:
            return [tensor]
        if self.order != FUSED_ORDERS[0] or WHOLE & set(layers):
            return list(tensor.split(sizes))
        heads = self.widths.heads
        by_head = tensor.unflatten(0, (heads, -1)).split([size // heads for size in sizes], 1)
        return [part.flatten(0, 1) for part in by_head]


def read_layout(where: str, shapes: Shapes, dim: int, heads: int, order: str = FUSED_ORDERS[0]) -> Layout:
    """The layout of a file's self-attentions, the same in every block; ValueError for any that is not known.

    where: begins an error. shapes: of the whole model, keys without prefixes. order: of fused up-projections.
    """
    if order not in FUSED_ORDERS:
        raise ValueError(f"{where}: fused up-projections lie {' or '.join(FUSED_ORDERS)}, not {order!r}.")
    blocks = by_block(shapes)
    first = blocks[0]
    pieces = [piece for name, shape in first.items() if (piece := _piece(name, shape))]
    faults = _lost_and_left(first, pieces)
    widths = None if faults else _widths(first, pieces, dim, heads)
    if widths is not None:
        wrong = [piece.name for piece in pieces if piece.shape(widths) != first[piece.name]]
        faults += [f"{first_few(wrong)} of shapes that do not fit together"] if wrong else []
        other = [f"block {i}" for i, own in blocks.items() if own != first]
        faults += [f"{first_few(other)} unlike block 0"] if other else []
    if widths is None or faults:
        listing = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(first.items()))
        raise ValueError(
            f"{where}: VideoMLA's self-attention has a layout that is not known here: {'; '.join(faults)}. "
            f"Block 0 has {listing}. Expected are {EXPECTED}. Report this list, or rename the file's keys."
        )
    return Layout(widths, tuple(pieces), order)


def by_block(tensors: Mapping[str, T]) -> dict[int, dict[str, T]]:
    """What lies below each block's self_attn, by names without prefix."""
    blocks: dict[int, dict[str, T]] = {}
    for key, value in tensors.items():
        if match := ATTENTION.fullmatch(key):
            blocks.setdefault(int(match[1]), {})[match[2]] = value
    return blocks


def split_layers(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """All tensors under the names of `arch.mla.MlaModel`; those outside self-attentions as they are."""
    state = {key: value for key, value in tensors.items() if not ATTENTION.fullmatch(key)}
    for index, own in by_block(tensors).items():
        for name, value in layout.state_dict(own).items():
            state[f"blocks.{index}.self_attn.{name}"] = value
    return {key: value.contiguous() for key, value in state.items()}


def _piece(name: str, shape: tuple[int, ...]) -> Piece | None:
    """The layers of a tensor by its name, None where the name is not known or the shape cannot be."""
    stem, _, ending = name.partition(".")
    if name in (f"{NORM_Q}.weight", f"{NORM_KV}.weight") and len(shape) == 1:
        return Piece(name, (stem,), "norm")
    layers = NAMES.get(stem)
    if layers is None or (ending, len(shape)) not in (("weight", 2), ("bias", 1), ("", 2)):
        return None
    return Piece(name, layers, ending or "weight", transposed=not ending)


def _lost_and_left(shapes: Shapes, pieces: Sequence[Piece]) -> list[str]:
    """What of a self-attention is not known, missing, or there twice, in words."""
    names = {piece.name for piece in pieces}
    layers = [layer for piece in pieces if piece.kind != "bias" for layer in piece.layers]
    weights = {piece.layers for piece in pieces if piece.kind == "weight"}
    faults = {
        "unknown": [name for name in shapes if name not in names],
        "missing": [layer for layer in (NORM_Q, NORM_KV, *PROJECTIONS) if layer not in layers],
        "twice": [layer for layer in dict.fromkeys(layers) if layers.count(layer) > 1],
        "without a weight": [p.name for p in pieces if p.kind == "bias" and p.layers not in weights],
    }
    return [f"{what} {', '.join(each)}" for what, each in faults.items() if each]


def _widths(shapes: Shapes, pieces: Sequence[Piece], dim: int, heads: int) -> Widths:
    """Sizes from the two norms and the rotary key, alone or in one matrix with the latent."""
    query, kv = shapes[f"{NORM_Q}.weight"][0], shapes[f"{NORM_KV}.weight"][0]
    rotary = next(piece for piece in pieces if piece.kind == "weight" and "k_rope" in piece.layers)
    rows = shapes[rotary.name][1 if rotary.transposed else 0]
    turned = rows - (kv if "kv_down" in rotary.layers else 0)
    return Widths(dim, heads, dim // heads - turned, turned, kv, query)
