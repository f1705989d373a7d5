"""A format beside the dense cache of the same stream: the same tokens reach both, dense answers lead on.

B batch rows, L tokens, N heads, D head width, C channels of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...model_patches.arch.parts import project_qkv
from ...model_patches.arch.tree import DiTTree
from ...model_patches.attention.past import Past
from ...model_patches.attention.sdpa import sdpa
from ...model_patches.cache.format import Cache, CacheFormat, Call, Draft
from ...model_patches.cache.shapes import CacheShape, MemorySeen
from ...model_patches.cache.watched import WatchedFormat


@dataclass(frozen=True)
class Errors:
    """Relative errors of attention's output: norm of the difference over norm of the truth."""

    layers: tuple[float, ...]  # after the output projection, its bias left out
    heads: tuple[tuple[float, ...], ...]  # of each layer, each head's own output; of another model, none

    @property
    def total(self) -> float:
        """Root mean square over the layers."""
        return (sum(error**2 for error in self.layers) / len(self.layers)) ** 0.5


@dataclass
class Tally:
    """Sums of squares, layer by layer, while `counts`.

    other: the model that the format runs on where its self-attentions are not those of `dit`.
    """

    dit: DiTTree
    other: DiTTree | None = None
    counts: bool = False
    sums: list[Tensor] = field(default_factory=list)  # per layer [difference or truth, projected or head n]
    # layer, queries of another model, keys and values of the format, until attended
    asked: tuple[int, Tensor | None, Tensor, Tensor] | None = None

    def attend(self, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        """The stream's attention: dense, with the format's measured against it where a past was read."""
        true_BLND = sdpa(q_BLND, k_BLND, v_BLND)
        asked, self.asked = self.asked, None
        if asked is not None and self.counts:
            layer, queries, keys, values = asked
            self.add(layer, sdpa(q_BLND if queries is None else queries, keys, values), true_BLND)
        return true_BLND

    def add(self, layer: int, made_BLND: Tensor, true_BLND: Tensor) -> None:
        """Counts one call of a layer: attention's output as it was made, and as it should be."""
        project = self.dit.blocks[layer].self_attn.o
        back = (self.other or self.dit).blocks[layer].self_attn.o
        true_BLC = project(true_BLND.flatten(2))
        bias_11C = project(torch.zeros_like(true_BLND[:1, :1]).flatten(2))
        wholes = back(made_BLND.flatten(2)) - true_BLC, true_BLC - bias_11C
        heads = made_BLND - true_BLND, true_BLND
        parts = [
            torch.cat([whole.double().square().sum()[None], each.double().square().sum((0, 1, 3))])
            for whole, each in zip(wholes, heads, strict=True)
        ]
        while len(self.sums) <= layer:
            self.sums.append(torch.zeros(2, 1 + true_BLND.shape[2], dtype=torch.float64))
        self.sums[layer] += torch.stack(parts)

    def errors(self) -> Errors:
        """What was counted."""
        shares = [(wrong / true).sqrt().tolist() for wrong, true in self.sums]
        heads = tuple(tuple(share[1:]) if self.other is None else () for share in shares)
        return Errors(tuple(share[0] for share in shares), heads)


def beside(other: CacheFormat, tally: Tally) -> WatchedFormat:
    """The format of a stream that is made with the dense cache and measured with another."""

    def start(
        model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> Beside:
        return Beside(other.empty(tally.other or model, shape, frames, dtype, device), tally)

    return WatchedFormat(start, "beside")


@dataclass(frozen=True, slots=True)
class Beside:
    """Another cache of the same frames; see `watched.Watcher`."""

    cache: Cache
    tally: Tally

    def begin(self, call: Call) -> BlockBeside:
        """Room for the block."""
        return BlockBeside(self.cache.begin(call), self.tally)

    def fold(self, pairs: Sequence[tuple[int, int]], share: float) -> Beside:
        """The cache, folded."""
        return Beside(self.cache.fold(pairs, share), self.tally)

    def retain(self, frames: tuple[int, ...]) -> Beside:
        """The cache without any frame but these."""
        return Beside(self.cache.retain(frames), self.tally)


@dataclass(frozen=True, slots=True)
class BlockBeside:
    """A block in the other cache; see `watched.BlockWatcher`."""

    draft: Draft
    tally: Tally

    def past(self, rows: slice) -> CallBeside:
        """What these rows attend to."""
        return CallBeside(self.draft.past(rows), self.tally)

    def set_memory(self, memory: MemorySeen | None) -> None:
        """Show it to the other cache too."""
        self.draft.set_memory(memory)

    def commit(self, frames: tuple[int, ...]) -> Beside:
        """The cache with the block in it."""
        return Beside(self.draft.commit(frames), self.tally)


@dataclass(slots=True)
class CallBeside:
    """The other past of some rows; see `watched.CallWatcher`."""

    past: Past
    tally: Tally
    queries: Tensor | None = None  # of another model, at their positions

    def write(self, layer: int, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor, keep: bool) -> None:
        """Take the tokens; another model makes its own keys and values of them."""
        if self.tally.other is not None:
            attention = self.tally.other.blocks[layer].self_attn
            q_BLND, k_BLND, v_BLND = project_qkv(attention, x_BLC)
            self.queries = self.past.rotate(q_BLND)
        self.past.write(layer, x_BLC, k_BLND, v_BLND, keep=keep)

    def read(self, layer: int) -> None:
        """The tally gets what the other past has."""
        self.tally.asked = layer, self.queries, *self.past.read(layer)

    def rotate(self, q_BLND: Tensor, rotated_BLND: Tensor) -> None:
        """The queries are the dense model's."""
