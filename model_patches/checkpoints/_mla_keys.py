"""Which tensors of a VideoMLA checkpoint are which layers, by name and shape.

The published files could not be read when this was written: their keys and layouts are not known, only the
sizes (arXiv 2605.30351) and the names in its author's earlier public prototype. So every layout is taken that
leaves no doubt: a matrix as a layer's weight (out, in) or a bare parameter (in, out), projections fused or
apart, any names that say query, key or value. One reading must fit; where two do, or none, the file is
refused with what was found. N heads, D head width, C width of the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from .files import Shapes, some

ATTENTION = re.compile(r"blocks\.(\d+)\.self_attn\.(.+)")
SIDE = re.compile(r"(?:w|to)?(?P<before>c|d|u|r)?(?P<side>kv|q|k|v)(?P<after>d|u|r)?")
DOWN = {"a", "d", "down", "downsample", "downsampled", "compress", "compressed", "reduce"}
UP = {"b", "u", "up", "upsample", "upsampled", "expand", "decompress"}
ROPE = {"rope", "pe", "rot", "rotary", "r"}
BESIDE = {"nope", "with", "and", "mqa"}  # says that a rotary part is not alone, or not meant
OUTPUT = {"o", "wo", "out", "output"}

# layers that a matrix may hold, in the order of its rows: what its name may say it is of
ROLES = {
    ("q_down",): {"q"},
    ("q_up",): {"q"},
    ("q_rope",): {"q"},
    ("q_up", "q_rope"): {"q"},
    ("kv_down",): {"kv"},
    ("kv_down", "k_rope"): {"kv"},
    ("k_rope",): {"k"},
    ("k_up",): {"k", "kv"},
    ("v_up",): {"v", "kv"},
    ("k_up", "v_up"): {"kv"},
    ("o",): set[str](),
}
NORMS = {"norm_q_latent": "q", "norm_kv_latent": "kv"}
WHOLE = {"q_down", "kv_down", "k_rope", "o"}  # not by head
FUSED_ORDERS = ("per head", "in blocks")


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
    """How one tensor of a self-attention becomes layers of ours."""

    name: str  # below self_attn, as in the file
    layers: tuple[str, ...]  # whose weights, or biases, lie in it, one after the other or mixed by head
    kind: str  # weight, bias or norm
    turned_over: bool = False  # (in, out)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the self-attentions of a file are laid out; prints what was found."""

    widths: Widths
    pieces: tuple[Piece, ...]
    order: str = FUSED_ORDERS[0]  # of fused up-projections: parts side by side in each head, or in blocks

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
            f"  {p.name} -> {' + '.join(p.layers)} {p.kind}{', (in, out)' if p.turned_over else ''}"
            for p in self.pieces
        ]
        if self.fused:
            lines.append(f"  fused up-projections lie {self.order}: assumed, shapes cannot tell")
        return "\n".join(lines)

    def taken(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State dict of one `MlaAttention` from the tensors below one self_attn."""
        made: dict[str, Tensor] = {}
        for piece in self.pieces:
            tensor = tensors[piece.name]
            if piece.kind == "norm":
                made[f"{piece.layers[0]}.weight"] = tensor
                continue
            parts = self._split(tensor.mT if piece.turned_over else tensor, piece.layers)
            made |= {f"{layer}.{piece.kind}": part for layer, part in zip(piece.layers, parts, strict=True)}
        return made

    def _split(self, tensor: Tensor, layers: Sequence[str]) -> list[Tensor]:
        sizes = [self.widths.rows(layer) for layer in layers]
        if len(layers) == 1:
            return [tensor]
        if self.order != FUSED_ORDERS[0] or WHOLE & set(layers):
            return list(tensor.split(sizes))
        by_head = tensor.unflatten(0, (self.widths.heads, -1)).split(
            [s // self.widths.heads for s in sizes], 1
        )
        return [part.flatten(0, 1) for part in by_head]


def by_layer(shapes: Shapes) -> Mapping[int, Shapes]:
    """Shapes below each block's self_attn, by names without prefix."""
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        if match := ATTENTION.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = shape
    return found


def read_layout(where: str, shapes: Shapes, dim: int, heads: int, order: str = FUSED_ORDERS[0]) -> Layout:
    """The one reading of a file's self-attentions; refuses none, two, and layers that differ.

    shapes: of the whole model, keys without prefixes. where: begins an error. order: of fused up-projections.
    """
    if order not in FUSED_ORDERS:
        raise ValueError(f"{where}: fused up-projections lie {' or '.join(FUSED_ORDERS)}, not {order!r}.")
    layers = by_layer(shapes)
    if not layers:
        raise ValueError(
            f"{where}: no key is of a self-attention (blocks.0.self_attn...), so it is no Wan model."
        )
    first = layers[min(layers)]
    other = next((i for i, each in sorted(layers.items()) if each != first), None)
    if other is not None:
        told = sorted(set(first.items()) ^ set(layers[other].items()))
        raise ValueError(
            f"{where}: the self-attention of block {other} is not laid out as that of block {min(layers)} "
            f"({some(f'{name} {list(shape)}' for name, shape in told)}); VideoMLA replaces it in every block."
        )
    dense = {"q.weight", "k.weight", "v.weight", "norm_q.weight", "norm_k.weight"} & first.keys()
    if {"k.weight", "v.weight"} <= dense or dense >= {"q.weight", "norm_q.weight"}:
        raise ValueError(
            f"{where}: block 0 has the dense {some(sorted(dense))}, which no VideoMLA attention has; load a "
            f"dense model as one, or convert it (`python run.py convert-mla`)."
        )
    widths = _widths(where, first, dim, heads)
    return Layout(widths, _assigned(where, first, widths), order)


def _widths(where: str, shapes: Shapes, dim: int, heads: int) -> Widths:
    """Sizes from the two norms and the rotary key."""
    norms = {name: shape[0] for name, shape in shapes.items() if _is_norm(name, shape)}
    if len(norms) != 2:
        raise ValueError(
            f"{where}: a VideoMLA attention norms two latents, block 0 has {len(norms)} norms "
            f"({some(f'{n} [{s}]' for n, s in norms.items()) or 'none'}); it cannot be told what is missing."
        )
    sides = {_side(name): size for name, size in norms.items()}
    kv, query = sides.get("kv"), sides.get("q")
    if kv is None or query is None:
        kv, query = sorted(norms.values())
    head_dim = dim // heads
    around = {n for shape in shapes.values() if len(shape) == 2 and dim in shape for n in shape}
    turned = {n for n in around if n < head_dim} | {n - kv for n in around if 0 < n - kv < head_dim}
    # of several widths the rotary key may have, only one makes all the up-projections
    fits = [
        width
        for width in sorted(turned)
        if width % 2 == 0 and _has_ups(shapes, Widths(dim, heads, head_dim - width, width, kv, query))
    ]
    if len(fits) != 1:
        raise ValueError(
            f"{where}: the rotary key's width cannot be told from latents of {kv} and {query} channels and "
            f"the shapes {some(f'{n} {list(s)}' for n, s in sorted(shapes.items()))}; VideoMLA's is 32."
        )
    return Widths(dim, heads, head_dim - fits[0], fits[0], kv, query)


def _has_ups(shapes: Shapes, widths: Widths) -> bool:
    matrices = {tuple(sorted(shape)) for shape in shapes.values() if len(shape) == 2}

    def has(*layers: str) -> bool:
        rows = sum(widths.rows(layer) for layer in layers)
        return tuple(sorted((rows, widths.columns(layers[0])))) in matrices

    keys = has("k_up", "v_up") or (has("k_up") and has("v_up"))
    queries = has("q_up", "q_rope") or (has("q_up") and has("q_rope"))
    return keys and queries and (has("k_rope") or has("kv_down", "k_rope"))


def _assigned(where: str, shapes: Shapes, widths: Widths) -> tuple[Piece, ...]:
    """One piece for each tensor, every layer once."""
    vectors = {name: shape for name, shape in shapes.items() if len(shape) == 1}
    matrices = {name: shape for name, shape in shapes.items() if len(shape) != 1}
    options = {name: _readings(name, shape, widths) for name, shape in matrices.items()}
    lost = [f"{name} {list(matrices[name])}" for name, found in options.items() if not found]
    if lost:
        raise ValueError(
            f"{where}: {some(lost)} of block 0 can be no layer of VideoMLA with {widths.heads} heads of "
            f"{widths.still} + {widths.turned} channels and latents of {widths.kv_latent} and "
            f"{widths.query_latent}; a file with other layers cannot be read."
        )
    needed = sorted({layer for layers in ROLES for layer in layers})
    ways = [
        pieces
        for pieces in product(*options.values())
        if sorted(layer for piece in pieces for layer in piece.layers) == needed and _one_way(pieces)
    ]
    # layers keep (out, in), bare parameters here (in, out): other ways count only where none does so
    likely = [pieces for pieces in ways if not any(_odd(piece) for piece in pieces)] or ways
    if len(likely) != 1:
        told = some(f"{n} {list(s)}" for n, s in sorted(matrices.items()))
        found = {layer for each in options.values() for piece in each for layer in piece.layers}
        lacking = [layer for layer in needed if layer not in found]
        raise ValueError(
            f"{where}: the matrices of block 0 ({told}) "
            + (
                f"lack {some(lacking)}"
                if lacking
                else f"fit VideoMLA's layers in {len(likely)} ways, not one"
            )
            + "; a file is read only if every layer is there once and nothing is left over."
        )
    stems = {_stem(piece.name): piece for piece in likely[0]}
    norms = _norms(where, vectors, widths)
    biases = [
        _bias(where, n, s, stems, widths) for n, s in vectors.items() if n not in {p.name for p in norms}
    ]
    return (*likely[0], *norms, *biases)


def _readings(name: str, shape: tuple[int, ...], widths: Widths) -> list[Piece]:
    """What a matrix can be, by shape, as far as its name agrees."""
    found: list[Piece] = []
    for layers in ROLES:
        size = (sum(widths.rows(layer) for layer in layers), widths.columns(layers[0]))
        for over in (False, True):
            if shape == (size[::-1] if over else size) and _agrees(name, layers):
                found.append(Piece(name, layers, "weight", over))
    return found


def _odd(piece: Piece) -> bool:
    return piece.turned_over == piece.name.endswith(".weight")


def _one_way(pieces: Sequence[Piece]) -> bool:
    """Whether all layers lie alike, and all bare parameters."""
    lies = {(piece.name.endswith(".weight"), piece.turned_over) for piece in pieces}
    return len(lies) == len({bare for bare, _ in lies})


def _agrees(name: str, layers: tuple[str, ...]) -> bool:
    """Whether the name speaks of these layers, or at least of no others."""
    words, side = _words(name), _side(name)
    if words & OUTPUT or layers == ("o",):
        return layers == ("o",) and side is None
    if side is not None and side not in ROLES[layers]:
        return False
    down = layers[0].endswith("_down") or layers == ("k_rope",)
    if words & (UP if down else DOWN):
        return False
    return not (words & ROPE) or bool(words & BESIDE) or layers[-1].endswith("_rope")


def _words(name: str) -> set[str]:
    """Words of a name; `W_DKV` and `w_qr` say side and direction in one, and both are given."""
    words = set(_ordered(name))
    for word in list(words):
        if match := SIDE.fullmatch(word):
            words |= {part for part in (match["before"], match["after"]) if part}
    return words


def _side(name: str) -> str | None:
    """q, k, v or kv, where the name says one."""
    return next((match["side"] for word in _ordered(name) if (match := SIDE.fullmatch(word))), None)


def _ordered(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _stem(name: str) -> str:
    return re.sub(r"[._](weight|bias)$", "", name)


def _is_norm(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 and "norm" in name.lower() and not name.endswith("bias")


def _norms(where: str, vectors: Shapes, widths: Widths) -> list[Piece]:
    named = [name for name, shape in vectors.items() if _is_norm(name, shape)]
    sizes = {"norm_kv_latent": widths.kv_latent, "norm_q_latent": widths.query_latent}
    ways = [
        dict(zip(NORMS, order, strict=True))
        for order in (named, named[::-1])
        if all(vectors[name] == (sizes[layer],) for layer, name in zip(NORMS, order, strict=True))
        and all(_side(name) in (None, NORMS[layer]) for layer, name in zip(NORMS, order, strict=True))
    ]
    if len(ways) != 1:
        raise ValueError(f"{where}: it cannot be told which of {some(named)} norms queries.")
    return [Piece(name, (layer,), "norm") for layer, name in ways[0].items()]


def _bias(where: str, name: str, shape: tuple[int, ...], stems: Mapping[str, Piece], widths: Widths) -> Piece:
    weight = stems.get(_stem(name))
    if weight is None or shape != (sum(widths.rows(layer) for layer in weight.layers),):
        raise ValueError(
            f"{where}: {name} {list(shape)} of block 0 is neither a norm of a latent nor the bias of a layer "
            f"that is there; nothing may be left over."
        )
    return Piece(name, weight.layers, "bias")


def apart(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """All tensors under the names of `arch.mla.MlaModel`; those outside self-attentions as they are."""
    made = {key: value for key, value in tensors.items() if not ATTENTION.fullmatch(key)}
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if match := ATTENTION.fullmatch(key):
            layers.setdefault(int(match[1]), {})[match[2]] = value
    for index, own in layers.items():
        for name, value in layout.taken(own).items():
            made[f"blocks.{index}.self_attn.{name}"] = value
    return {key: value.contiguous() for key, value in made.items()}
