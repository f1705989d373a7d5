"""The table of slots and their latent frames, as Python integers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

FREE = -1


@dataclass(frozen=True, slots=True)
class Slots:
    """An immutable table of slots."""

    frames: tuple[int, ...]  # latent frame in each slot, or FREE
    claims: tuple[int, ...]  # number of the claim under which each slot was last written

    @staticmethod
    def empty(count: int) -> Slots:
        """A table of free slots."""
        return Slots((FREE,) * count, (0,) * count)

    @property
    def free(self) -> tuple[int, ...]:
        """Slots without a frame, ascending."""
        return tuple(slot for slot, frame in enumerate(self.frames) if frame == FREE)

    @property
    def filled(self) -> tuple[int, ...]:
        """Slots with a frame, ascending."""
        return tuple(slot for slot, frame in enumerate(self.frames) if frame != FREE)

    @property
    def sorted_frames(self) -> tuple[int, ...]:
        """Its frames, ascending."""
        return tuple(sorted(frame for frame in self.frames if frame != FREE))

    def is_current(self, claims: Sequence[int]) -> bool:
        """Whether no filled slot was written under another claim since."""
        return all(claims[slot] == self.claims[slot] for slot in self.filled)

    def grow(self, count: int) -> Slots:
        """The same table with free slots appended up to `count`."""
        more = max(0, count - len(self.frames))
        return Slots(self.frames + (FREE,) * more, self.claims + (0,) * more)

    def put(self, slots: Sequence[int], frames: Sequence[int], claim: int) -> Slots:
        """The table with these frames in these slots."""
        new_frames, claims = list(self.frames), list(self.claims)
        for slot, frame in zip(slots, frames, strict=True):
            new_frames[slot], claims[slot] = frame, claim
        return Slots(tuple(new_frames), tuple(claims))

    def mark_claimed(self, slots: Sequence[int], claim: int) -> Slots:
        """The table with these slots written under this claim."""
        claims = [claim if slot in slots else old for slot, old in enumerate(self.claims)]
        return Slots(self.frames, tuple(claims))

    def retain(self, frames: Iterable[int]) -> Slots:
        """The table with these frames alone."""
        retained = set(frames)
        return Slots(tuple(frame if frame in retained else FREE for frame in self.frames), self.claims)


def runs(slots: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first slot, one past the last, index of the first in `slots`) of each unbroken stretch of slots."""
    start = 0
    for index in range(1, len(slots) + 1):
        if index == len(slots) or slots[index] != slots[index - 1] + 1:
            yield slots[start], slots[index - 1] + 1, start
            start = index
