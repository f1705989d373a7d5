"""Graphics card that a stream needs, by cache format and weight storage, computed from sizes alone.

Nothing here was measured on a card. Bytes are those of `plan.plan_stream`; how a host
offloads weights and what a system uses of a card are the assumptions below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..arch.tree import DiTTree
from ..arch.wan import WanConfig
from ..cache.cost import CacheCost
from ..cache.formats import compatible_formats
from .cost import parameters
from .plan import Plan, Request, plan_stream
from .verdict import HEADROOM

CARDS = (12, 16, 24, 32)  # sizes on the market, in GiB
SYSTEM_BYTES = 1_000_000_000  # that desktop and driver use of a card; assumed
LAYERS_ON_CARD = 2  # of offloaded weights: the running one and the next in transfer; assumed of the host


@dataclass(frozen=True, slots=True)
class Precision:
    """Storage format of the layers' matrices; everything else has the compute dtype."""

    name: str
    bits: float | None  # for a number of a matrix, scales included; None: the compute dtype's


# GGUF's Q4_0 stores 32 numbers in 18 bytes, its Q4_K 256 in 144 (github.com/ggml-org/ggml, src/ggml-common.h)
BF16, FP8, Q4 = Precision("bf16", None), Precision("fp8", 8.0), Precision("Q4", 4.5)
PRECISIONS = (BF16, FP8, Q4)


@dataclass(frozen=True, slots=True)
class Weights:
    """Storage of the transformer's weights."""

    precision: Precision
    offloaded: bool = False  # in RAM, copied to the card layer by layer

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.precision.name} offloaded" if self.offloaded else self.precision.name

    def stored_bytes(self, model: WanConfig, itemsize: int) -> int:
        """Bytes of all weights, in RAM or on the card. itemsize: bytes of the compute dtype."""
        matrices = matrix_numbers(model)
        return matrix_bytes(self.precision, matrices, itemsize) + (parameters(model) - matrices) * itemsize

    def card_bytes(self, model: WanConfig, itemsize: int) -> int:
        """Peak bytes on the card; a matrix stored in fewer bits is also there widened during its product."""
        widest = 0 if self.precision.bits is None else max(model.dim, model.ffn_dim) * model.dim * itemsize
        if not self.offloaded:
            return self.stored_bytes(model, itemsize) + widest
        layer = matrix_bytes(self.precision, matrix_numbers(model) // model.num_layers, itemsize)
        return LAYERS_ON_CARD * layer + widest

    def bus_bytes(self, model: WanConfig, itemsize: int, calls: int) -> int:
        """Bytes copied from RAM to the card in so many calls of the model."""
        return calls * self.stored_bytes(model, itemsize) if self.offloaded else 0


WEIGHTS = tuple(Weights(precision, offloaded) for offloaded in (False, True) for precision in PRECISIONS)


@dataclass(frozen=True, slots=True)
class Choice:
    """A cache format and weight storage, with their plan."""

    cache: CacheCost
    weights: Weights
    plan: Plan

    @property
    def card(self) -> int | None:
        """GiB of the smallest of `CARDS` that it fits on, or None."""
        needed = HEADROOM * self.plan.device_bytes
        return next((size for size in CARDS if needed <= free_bytes(size)), None)


def free_bytes(card: int) -> int:
    """Bytes that a card of so many GiB has for a stream."""
    return card * 2**30 - SYSTEM_BYTES


def matrix_numbers(model: WanConfig) -> int:
    """Numbers in the matrices of all layers: two attentions of four, and the feed-forward's two."""
    return model.num_layers * (8 * model.dim**2 + 2 * model.dim * model.ffn_dim)


def matrix_bytes(precision: Precision, numbers: int, itemsize: int) -> int:
    """Bytes of so many numbers of the layers' matrices."""
    return numbers * itemsize if precision.bits is None else round(numbers * precision.bits / 8)


def usable_formats(model: DiTTree) -> tuple[CacheCost, ...]:
    """Costs of the cache formats that suit this model, most exact first; the model needs no weights."""
    return tuple(kind.cost(model) for kind in compatible_formats(model))


def choices(
    request: Request, formats: Sequence[CacheCost], weights: Sequence[Weights] = WEIGHTS
) -> tuple[Choice, ...]:
    """The plan of every pair of weights and cache format, weights in the outer loop."""
    size = request.stream.dtype.itemsize
    return tuple(
        Choice(
            cache,
            storage,
            plan_stream(replace(request, cache=cache, weights_bytes=storage.card_bytes(request.model, size))),
        )
        for storage in weights
        for cache in formats
    )


def describe_cards(request: Request, formats: Sequence[CacheCost]) -> str:
    """A sentence with the first choice that fits each of `CARDS`; offloaded weights come last."""
    options = choices(request, formats)
    lines: list[str] = []
    for size in CARDS:
        fits = (option for option in options if option.card is not None and option.card <= size)
        best = next(fits, None)
        lines.append(
            f"{size} GB: "
            + ("no" if best is None else f"{best.cache.name} cache, {best.weights.name} weights")
        )
    return f"By card, computed: {'; '.join(lines)}."
