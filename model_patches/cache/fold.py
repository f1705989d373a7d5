"""Cached frames that blend with others: the buffers change only when the next block begins.

Until then the state before the fold stays valid, and reads of the state after it compute the blend. The write
goes layer by layer; the result of the current layer stays in `FoldProgress` until it is in the buffers, so an
interrupted fold continues where it stopped.

R batch rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..transfer import copy_in_pieces
from .shapes import KeysValues
from .slots import Slots
from .store import FoldProgress, Place, Store


@dataclass(frozen=True, slots=True)
class Fold:
    """Frames to blend, in order: slot `at[i]` becomes (1 - share) of itself plus share of `others[i]`."""

    claim: int  # under which the slots `at` are written
    at: tuple[int, ...]  # in the buffers where those are lossless, else in the exact buffer
    others: tuple[Place, ...]  # one for each of `at`
    share: float
    source: tuple[Slots, Slots]  # slots of the others, in the buffers and in the exact buffer

    @property
    def slots(self) -> list[int]:
        """Slots that change, ascending."""
        return sorted(set(self.at))

    def has_begun(self, store: Store) -> bool:
        """Whether the slots are claimed, so that the state before is spent."""
        return store.lossless_claims[self.at[0]] == self.claim

    def is_possible(self, store: Store) -> bool:
        """Whether its sources are valid: it has begun, or no block has reused the slots of the others."""
        buffers, exact = self.source
        there = buffers.is_current(store.claims) and exact.is_current(store.exact_claims)
        return there or self.has_begun(store)

    def layer(self, store: Store, layer: int) -> tuple[Tensor, ...]:
        """The slots of a layer after the fold, one after another, whatever part of it is written."""
        size, slots, progress = store.shape.frame_tokens, self.slots, self._progress(store)
        if progress.result is not None and layer == progress.layer:
            return progress.result
        buffers = store.parts(store.lossless_buffers, layer)
        result = tuple(
            torch.cat([buffer[:, slot * size : (slot + 1) * size] for slot in slots], 1) for buffer in buffers
        )
        if layer >= progress.layer:
            for slot, other in zip(self.at, self.others, strict=True):
                at = slots.index(slot) * size
                for old, new in zip(result, store.parts_at(layer, other), strict=True):
                    old[:, at : at + size].lerp_(new, self.share)
        return result

    def write(self, store: Store) -> None:
        """Write it to the slots; after an interruption it can be called again."""
        if not self.has_begun(store):
            claims = list(store.lossless_claims)
            for slot in self.at:
                claims[slot] = self.claim
            store.lossless_claims = claims
        while (layer := self._progress(store).layer) < store.shape.layers:
            result = self.layer(store, layer)
            store.fold_progress = FoldProgress(self.claim, layer, result)
            self._put(store, store.lossless_buffers, layer, self.slots, result)
            store.fold_progress = FoldProgress(self.claim, layer + 1)

    def save(self, store: Store, saved: Mapping[str, Tensor], filled: Sequence[int]) -> None:
        """Write it into the tensors that `store.save` returned for the filled slots."""
        places = [filled.index(slot) for slot in self.slots]
        for layer in range(store.shape.layers):
            self._put(store, saved, layer, places, self.layer(store, layer))

    def keys_values(self, store: Store, layer: int) -> dict[int, KeysValues]:
        """Keys before RoPE and values [R, L, N, D] by slot."""
        result = zip(
            *(part.split(store.shape.frame_tokens, 1) for part in self.layer(store, layer)), strict=True
        )
        return {slot: store.read_parts(layer, parts) for slot, parts in zip(self.slots, result, strict=True)}

    def _put(
        self,
        store: Store,
        buffers: Mapping[str, Tensor],
        layer: int,
        slots: Sequence[int],
        result: tuple[Tensor, ...],
    ) -> None:
        size = store.shape.frame_tokens
        for buffer, new in zip(store.parts(buffers, layer), result, strict=True):
            for slot, part in zip(slots, new.split(size, 1), strict=True):
                copy_in_pieces(buffer[:, slot * size : (slot + 1) * size], part, 1)

    def _progress(self, store: Store) -> FoldProgress:
        """The layers written so far."""
        return store.fold_progress if store.fold_progress.claim == self.claim else FoldProgress(self.claim)
