"""Which graphics card a stream needs, by cache format and by how its weights are kept: from sizes alone.

Nothing here was measured on a card. Bytes are those of `plan.plan_stream`; what a host does with weights, and
what a system takes of a card, are the assumptions named below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..arch.tree import DiTTree
from ..arch.wan import WanConfig
from ..cache.cost import CacheCost
from ..cache.formats import fitting
from .cost import parameters
from .plan import Plan, Request, plan_stream
from .verdict import HEADROOM

CARDS = (12, 16, 24, 32)  # sizes that are sold, in GiB
SYSTEM_BYTES = 1_000_000_000  # of a card that desktop and driver hold; assumed
LAYERS_ON_CARD = 2  # of offloaded weights: the one at work, and the next on its way; assumed of the host


@dataclass(frozen=True, slots=True)
class Precision:
    """In what the matrices of the layers are kept; everything else stays in the compute dtype."""

    name: str
    bits: float | None  # of a number in a matrix, scales included; None: as the compute dtype


# GGUF's Q4_0 keeps 32 numbers in 18 bytes, its Q4_K 256 in 144 (github.com/ggml-org/ggml, src/ggml-common.h)
BF16, FP8, Q4 = Precision("bf16", None), Precision("fp8", 8.0), Precision("Q4", 4.5)
PRECISIONS = (BF16, FP8, Q4)


@dataclass(frozen=True, slots=True)
class Weights:
    """How the transformer is kept."""

    precision: Precision
    offloaded: bool = False  # in RAM, layer by layer on the card

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.precision.name} offloaded" if self.offloaded else self.precision.name

    def stored_bytes(self, model: WanConfig, itemsize: int) -> int:
        """All weights, wherever they lie."""
        matrices = matrix_numbers(model)
        return matrix_bytes(self.precision, matrices, itemsize) + (parameters(model) - matrices) * itemsize

    def card_bytes(self, model: WanConfig, itemsize: int) -> int:
        """On the card at once; a matrix that is kept in fewer bits is there once more while it is used."""
        widest = 0 if self.precision.bits is None else max(model.dim, model.ffn_dim) * model.dim * itemsize
        if not self.offloaded:
            return self.stored_bytes(model, itemsize) + widest
        layer = matrix_bytes(self.precision, matrix_numbers(model) // model.num_layers, itemsize)
        return LAYERS_ON_CARD * layer + widest

    def bus_bytes(self, model: WanConfig, itemsize: int, calls: int) -> int:
        """Carried from RAM to the card for so many calls of the model."""
        return calls * self.stored_bytes(model, itemsize) if self.offloaded else 0


WEIGHTS = tuple(Weights(precision, offloaded) for offloaded in (False, True) for precision in PRECISIONS)


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run a stream, and what it takes."""

    cache: CacheCost
    weights: Weights
    plan: Plan

    @property
    def card(self) -> int | None:
        """GiB of the smallest card that it fits on, None for none of `CARDS`."""
        needed = HEADROOM * self.plan.device_bytes
        return next((size for size in CARDS if needed <= free_bytes(size)), None)


def free_bytes(card: int) -> int:
    """What a card of so many GiB has for a stream."""
    return card * 2**30 - SYSTEM_BYTES


def matrix_numbers(model: WanConfig) -> int:
    """Numbers in the matrices of all layers: two attentions of four, and the feed-forward's two."""
    return model.num_layers * (8 * model.dim**2 + 2 * model.dim * model.ffn_dim)


def matrix_bytes(precision: Precision, numbers: int, itemsize: int) -> int:
    """Bytes of so many numbers of the layers' matrices."""
    return numbers * itemsize if precision.bits is None else round(numbers * precision.bits / 8)


def cache_formats(model: DiTTree) -> tuple[CacheCost, ...]:
    """The formats worth taking on this model, which needs no weights, the one that loses least first."""
    return tuple(kind.cost(model) for kind in fitting(model))


def choices(
    request: Request, formats: Sequence[CacheCost], weights: Sequence[Weights] = WEIGHTS
) -> tuple[Choice, ...]:
    """Every way to run a request: weights first as asked, formats in their order."""
    size = request.stream.dtype.itemsize
    return tuple(
        Choice(
            cache,
            kept,
            plan_stream(replace(request, cache=cache, weights_bytes=kept.card_bytes(request.model, size))),
        )
        for kept in weights
        for cache in formats
    )


def on_cards(request: Request, formats: Sequence[CacheCost]) -> str:
    """For each size of card the first way that fits, weights on the card before weights in RAM."""
    ways = choices(request, formats)
    told: list[str] = []
    for size in CARDS:
        fitting = (way for way in ways if way.card is not None and way.card <= size)
        way = next(fitting, None)
        told.append(
            f"{size} GB: " + ("no" if way is None else f"{way.cache.name} cache, {way.weights.name} weights")
        )
    return f"By card, computed: {'; '.join(told)}."
