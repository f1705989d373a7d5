"""The tenth of the world's combinations that no training draws, so that streams are judged on what is new.

A combination is what a prompt names: one object and its ground (90 of them), or two objects of different
colours, in either order, and their ground (540). 9 and 54 are held out. Each is the next that leaves the list
most even: over colours, shapes and grounds first, then over pairs of these. Ties go by a hash of the names
and all counts are whole numbers, so the list is the same on every machine. B scenes, N objects.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from .looks import COLOURS, SHAPES

CHOICES = ("all", "seen", "unseen")  # which combinations scenes are drawn from
ONE_IN = 10  # combinations of a kind, one is held out
_FIRST = {"ground", "colour", "shape", "object"}  # what the list is most even over
_FIRST_WEIGHT = 3  # with it the list of pairs is exactly even over these four
UNTOLD = "a training that its file does not tell of"
_NOTHING = len(COLOURS) * len(SHAPES)  # row of the table for a slot without an object


class Combination(NamedTuple):
    """Objects, as (colour, shape), and the ground; all indices into the world's tables."""

    objects: tuple[tuple[int, int], ...]
    ground: int

    def __str__(self) -> str:
        names = list(COLOURS)
        things = " and ".join(f"{names[colour]} {SHAPES[shape]}" for colour, shape in self.objects)
        return f"{things} on {names[self.ground]}"


def kinds() -> tuple[tuple[Combination, ...], tuple[Combination, ...]]:
    """All combinations of one object, and all of two."""
    things = [(colour, shape) for colour in range(len(COLOURS)) for shape in range(len(SHAPES))]
    alone = [(thing,) for thing in things]
    pairs = [pair for pair in combinations(things, 2) if pair[0][0] != pair[1][0]]
    one, two = (
        tuple(
            Combination(objects, ground)
            for objects in kind
            for ground in range(len(COLOURS))
            if ground not in [colour for colour, _ in objects]
        )
        for kind in (alone, pairs)
    )
    return one, two


@cache
def unseen() -> tuple[Combination, ...]:
    """The combinations that are held out, those of one object first."""
    return tuple(combination for kind in kinds() for combination in _evenest(kind))


@cache
def fingerprint() -> str:
    """Of the list: 16 hexadecimal digits that weights trained without it name in their record."""
    return hashlib.sha256("\n".join(sorted(map(str, unseen()))).encode()).hexdigest()[:16]


def is_unseen(colour_BN: Tensor, shape_BN: Tensor, ground_B: Tensor) -> Tensor:
    """Whether each scene's combination is held out: bool [B]. Colour -1: no object in that slot."""
    things = torch.where(colour_BN >= 0, colour_BN * len(SHAPES) + shape_BN, _NOTHING)
    return _table()[things[:, 0], things[:, 1], ground_B]


def admits(choice: str, colour_BN: Tensor, shape_BN: Tensor, ground_B: Tensor) -> Tensor:
    """Whether each scene may be drawn from these combinations: bool [B]. Raises ValueError for other names
    than those of `CHOICES`."""
    if choice not in CHOICES:
        raise ValueError(f"Combinations are {', '.join(CHOICES)}; got {choice!r}.")
    if choice == "all":
        return torch.ones(len(ground_B), dtype=torch.bool)
    return is_unseen(colour_BN, shape_BN, ground_B) == (choice == "unseen")


@dataclass(frozen=True, slots=True)
class History:
    """Which combinations weights were trained on; stored with them under these names."""

    held_out: str = ""  # fingerprint of the list that training did not draw; "": it drew all combinations
    held_out_after: str = ""  # what was trained before that, on all combinations; "": nothing

    @classmethod
    def of(cls, stored: Mapping[str, object]) -> History:
        """As it stands with weights, beside other entries."""
        return cls(*(str(stored.get(name, "")) for name in ("held_out", "held_out_after")))

    def trained_on(self, caller: str, trained: str) -> History:
        """Of weights that are trained on from these; trained: what these were trained so far.

        Raises ValueError, beginning with `caller`, for weights that were trained without another list.
        """
        listed = fingerprint()
        if self.held_out not in ("", listed):
            raise ValueError(
                f"{caller} was trained without the combinations of list {self.held_out}, and the list is now "
                f"{listed}: trained on, it would have seen some of either. Give weights of this list, or "
                f"begin from nothing."
            )
        return History(listed, self.held_out_after if self.held_out else trained or UNTOLD)

    def beside(self, other: History) -> History:
        """Of weights that are run together with others: what one was trained on, both were."""
        if self.held_out != other.held_out:
            return History()
        after = dict.fromkeys(each for each in (self.held_out_after, other.held_out_after) if each)
        return History(self.held_out, "; ".join(after))

    def __str__(self) -> str:
        """What the combinations of today's list are to these weights, for a row of figures."""
        if not self.held_out:
            return "trained on all combinations"
        if self.held_out != fingerprint():
            return f"trained without another list, {self.held_out}"
        return f"held out since: {self.held_out_after}" if self.held_out_after else "never trained on"


@cache
def _table() -> Tensor:
    """Bool [things + none, things + none, grounds], the same for either order of two objects."""
    table = torch.zeros(_NOTHING + 1, _NOTHING + 1, len(COLOURS), dtype=torch.bool)
    for objects, ground in unseen():
        rows = [colour * len(SHAPES) + shape for colour, shape in objects]
        first, second = rows if len(rows) == 2 else (rows[0], _NOTHING)
        table[first, second, ground] = table[second, first, ground] = True
    return table


def _evenest(kind: tuple[Combination, ...]) -> list[Combination]:
    """One combination in ten, each the one whose traits are rarest among those before it."""
    traits = {combination: _traits(combination) for combination in kind}
    total = Counter(trait for each in traits.values() for trait in each)
    whole = math.lcm(*total.values())
    price = {
        trait: (_FIRST_WEIGHT if trait[0] in _FIRST else 1) * (whole // count)
        for trait, count in total.items()
    }
    open_ = sorted(kind, key=lambda each: hashlib.sha256(str(each).encode()).digest())
    counts: Counter[tuple[object, ...]] = Counter()
    chosen: list[Combination] = []
    while len(chosen) < len(kind) // ONE_IN:
        costs = [sum((2 * counts[t] + 1) * price[t] for t in traits[each]) for each in open_]
        chosen.append(open_.pop(costs.index(min(costs))))
        counts.update(traits[chosen[-1]])
    return chosen


def _traits(combination: Combination) -> list[tuple[object, ...]]:
    """What the list shall be even over."""
    objects, ground = combination
    found: list[tuple[object, ...]] = [("ground", ground)]
    for colour, shape in objects:
        found += [("colour", colour), ("shape", shape), ("object", colour, shape)]
        found += [("colour on", colour, ground), ("shape on", shape, ground)]
        found.append(("object on", colour, shape, ground))
    if len(objects) == 2:
        colours, shapes = zip(*objects, strict=True)
        found += [("colours", *sorted(colours)), ("shapes", *sorted(shapes))]
    return found
