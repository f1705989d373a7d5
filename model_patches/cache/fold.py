"""Kept frames that take in a share of others: bytes change when the next block opens, and not before.

Until then the frames lie as they were: the state before still holds them, and whoever reads the state after
gets them folded. While they are written, layer by layer, every layer is whole somewhere: what it is given
stays at hand until it is there, so a fold that was interrupted goes on where it stood.

R batch rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import KeysValues
from .slots import Slots
from .store import Place, Settling, Store


@dataclass(frozen=True, slots=True)
class Fold:
    """Which frames take in which, in what order."""

    claim: int  # under which the slots `at` are written
    at: tuple[int, ...]  # in the rooms where those keep all unrounded, else in the exact room
    others: tuple[Place, ...]  # one for each of `at`
    share: float
    source: tuple[Slots, Slots]  # where the others lie, in the rooms and in the exact room

    @property
    def slots(self) -> list[int]:
        """Those that change, rising."""
        return sorted(set(self.at))

    def has_begun(self, store: Store) -> bool:
        """Whether the slots are claimed: the state before is spent."""
        return store.unrounded_claims[self.at[0]] == self.claim

    def is_possible(self, store: Store) -> bool:
        """Whether what it needs is there: it has begun, or no other block lies where the others lie."""
        rooms, exact = self.source
        there = rooms.current(store.claims) and exact.current(store.exact_claims)
        return there or self.has_begun(store)

    def layer(self, store: Store, layer: int) -> tuple[Tensor, ...]:
        """What the slots of a layer hold after it, slot by slot, however far it was written."""
        size, slots, way = store.shape.frame_tokens, self.slots, self._way(store)
        if way.made is not None and layer == way.layer:
            return way.made
        rooms = store.parts(store.unrounded, layer)
        made = tuple(
            torch.cat([room[:, slot * size : (slot + 1) * size] for slot in slots], 1) for room in rooms
        )
        if layer >= way.layer:
            for slot, other in zip(self.at, self.others, strict=True):
                at = slots.index(slot) * size
                for mine, given in zip(made, store.taken_in(layer, other), strict=True):
                    mine[:, at : at + size].lerp_(given, self.share)
        return made

    def write(self, store: Store) -> None:
        """Have the slots hold it; whatever ends this early, it can be written again."""
        if not self.has_begun(store):
            claims = list(store.unrounded_claims)
            for slot in self.at:
                claims[slot] = self.claim
            store.unrounded_claims = claims
        while (layer := self._way(store).layer) < store.shape.layers:
            made = self.layer(store, layer)
            store.settling = Settling(self.claim, layer, made)
            self._put(store, store.unrounded, layer, self.slots, made)
            store.settling = Settling(self.claim, layer + 1)

    def save(self, store: Store, saved: Mapping[str, Tensor], filled: Sequence[int]) -> None:
        """Put it into what `store.saved` gave of the filled slots."""
        places = [filled.index(slot) for slot in self.slots]
        for layer in range(store.shape.layers):
            self._put(store, saved, layer, places, self.layer(store, layer))

    def keys_values(self, store: Store, layer: int) -> dict[int, KeysValues]:
        """Keys before RoPE and values [R, L, N, D] by slot."""
        made = zip(
            *(part.split(store.shape.frame_tokens, 1) for part in self.layer(store, layer)), strict=True
        )
        return {slot: store.read_parts(layer, parts) for slot, parts in zip(self.slots, made, strict=True)}

    def _put(
        self,
        store: Store,
        rooms: Mapping[str, Tensor],
        layer: int,
        slots: Sequence[int],
        made: tuple[Tensor, ...],
    ) -> None:
        size = store.shape.frame_tokens
        for room, new in zip(store.parts(rooms, layer), made, strict=True):
            for slot, part in zip(slots, new.split(size, 1), strict=True):
                room[:, slot * size : (slot + 1) * size] = part

    def _way(self, store: Store) -> Settling:
        """How far it was written."""
        return store.settling if store.settling.claim == self.claim else Settling(self.claim)
