"""The methods of `bench field`: all caches and memories of the tables, alone and together.

A method is named after its cache and its memory, `plain` is neither. What the engine does not have is in
`field_experiments`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ...model_patches.cache.formats import FORMATS, find_format
from ...model_patches.memory.policies import POLICIES, find_policy
from ...pocket import choices
from ...pocket.choices import Choice
from ...pocket.defaults import DEFAULT, PLAIN, Names
from ...pocket.models import load_pocket
from .field_experiments import EXPERIMENTS

BASELINE = "plain"  # the name of the method that all others are paired with
TAUGHT_BY = DEFAULT.memory  # the memory whose file taught the model the stories of hiding


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    needs: str  # what a user must have
    made: Callable[[], Choice]  # on the built-in weights, for ordinary prompts
    taught: Callable[[], Choice]  # on weights that can draw the stories of hiding
    figures: Callable[[Choice], Mapping[str, float]] = field(default=lambda choice: {})  # in `cost`'s place


def listed() -> list[str]:
    """The names of what is built in, which are measured unless others are asked for."""
    alone = [name for name in POLICIES if name != PLAIN.memory]
    kept = [name for name in FORMATS if name != PLAIN.cache]
    together = [f"{name}+{TAUGHT_BY}" for name in kept]
    return [BASELINE, *reversed(alone), *kept, *together]


def find_method(name: str) -> Method:
    """The method of that name: of `listed`, or any cache+memory. SystemExit, with the names, for others."""
    first, _, last = name.partition("+")
    try:
        if first in EXPERIMENTS:
            return _experiment(name, first, find_policy(last or PLAIN.memory).name)
        names = _names(name)
        cache, memory = find_format(names.cache), find_policy(names.memory)
    except ValueError:
        raise SystemExit(
            f"bench field: no method is called {reprlib.repr(name)}; there are {', '.join(listed())}, and "
            f"any other cache+memory; of the bench alone {', '.join(EXPERIMENTS)}."
        ) from None
    needs = "; ".join(filter(None, (cache.needs, memory.needs))) or "nothing"
    return Method(name, needs, partial(choices.choose, *names), partial(taught, *names))


def _experiment(name: str, first: str, memory: str) -> Method:
    given = EXPERIMENTS[first]
    return Method(
        name,
        find_policy(memory).needs or "nothing",
        lambda: given.change(choices.choose(PLAIN.cache, memory)),
        lambda: given.change(taught(PLAIN.cache, memory)),
        given.figures,
    )


def _names(name: str) -> Names:
    """Cache and memory of a method's name."""
    if name == BASELINE:
        return PLAIN
    if name in POLICIES:
        return Names(PLAIN.cache, name)
    cache, _, memory = name.partition("+")
    return Names(cache, memory or PLAIN.memory)


def taught(cache: str, memory: str) -> Choice:
    """Cache and memory on weights that were taught the stories of hiding, whatever the memory.

    Raises ValueError where they do not go together.
    """
    shown = choices.choose(cache, TAUGHT_BY)
    if memory == TAUGHT_BY:
        return shown
    positions = load_pocket().recipe.preset
    pocket = replace(shown.pocket, recipe=replace(shown.pocket.recipe, preset=positions))
    pocket, policy = choices.remembering(pocket, memory)
    return Choice(pocket, shown.cache, policy)
