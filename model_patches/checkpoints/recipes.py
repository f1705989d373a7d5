"""Which record a file gets, by keys and shapes first, and what its name says against a stream."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

from . import wan22
from ._families import DENSE, OTHER_SIZE, VIDEO_MLA, Structure
from .published import RECIPES, PublishedRecipe, called


@dataclass(frozen=True, slots=True)
class Choice:
    """The record for a file, and why it is this one."""

    recipe: PublishedRecipe
    why: str  # a sentence
    by_name: bool  # by words of the file's name, where keys and shapes leave several


DEFAULTS = {(DENSE, "1.3B"): "self_forcing", (DENSE, "14B"): "krea_realtime", (VIDEO_MLA, "1.3B"): "videomla"}
CAUTIONS = (  # words of a file's name that speak of weights which few steps or a stream do not suit
    (
        wan22.EXPERT,
        f"an expert of {wan22.NAME_14B}, which is made for half of the steps alone",
    ),
    (called("bidirectional"), "a bidirectional model, which was not trained to go on block by block"),
    (called("ar~diffusion|stage1"), "weights before distillation, which need tens of steps and guidance"),
    (
        called("ode~init|causal~(ode|cd)(?![a-z])"),
        "weights in the middle of their distillation, from which a training begins",
    ),
)
LA6 = (  # of VideoMLA's file: a local attention of 6, as the code it comes from counts
    "Its name says la6, and the code it comes from counts the sink inside those 6: preset videomla_6 is the "
    "alternative, if pictures drift with videomla_7."
)
PLAIN = called("wan2[._]?1~t2v")  # Wan itself, where no other model is named


def find_recipe(name: str) -> PublishedRecipe:
    """The record of that name; ValueError, with the list of those there are, for any other."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise ValueError(
        f"Recipe: no record is called {reprlib.repr(name)}; there are "
        f"{', '.join(each.name for each in RECIPES)}."
    )


def recipes_in_name(file: str) -> list[PublishedRecipe]:
    """Records whose words are in a file's name, folders included; the longest words first."""
    matches = [(match.end() - match.start(), r) for r in RECIPES if (match := r.names.search(file.lower()))]
    return [recipe for _, recipe in sorted(matches, key=lambda each: -each[0])]


def choose(structure: Structure, file: str, name: str | None = None) -> Choice:
    """The record for a file of this structure: keys and shapes first, its name only where they leave several.

    file: its name, folders included. name: the record that a user chose, which must be for this kind of
    self-attention. A size that nobody has published may be any, by default the 1.3B's.
    """
    if name is not None:
        return Choice(_chosen(structure, file, name), "Your choice.", False)
    unknown = structure.size == OTHER_SIZE
    echo = find_recipe("echo_infinity")
    if structure.memory:
        return Choice(echo, "The memory encoder in the file says so.", False)
    fits = [
        r
        for r in RECIPES
        if r.kind == structure.kind and (unknown or r.size == structure.size) and r.memory != "learned"
    ]
    if not fits:
        raise ValueError(
            f"Recipe: {file} is {structure}, and no model of that kind and size has been published; choose a "
            f"recipe yourself."
        )
    if structure.kind == VIDEO_MLA:
        why = "It is the only published model with such keys and shapes."
        return Choice(fits[0], f"{why} {LA6}" if called("la6").search(file.lower()) else why, False)
    if structure.kind == echo.kind and echo in recipes_in_name(file):
        why = "The file's name says so, but there is no memory encoder in it: without one, memory stays off."
        return Choice(echo, why, True)
    if named := [recipe for recipe in recipes_in_name(file) if recipe in fits]:
        return Choice(named[0], f"The file's name says so. {_also(fits, named[0])}", True)
    default = find_recipe(DEFAULTS[structure.kind, "1.3B" if unknown else structure.size])
    why = "A guess, as the file's name names no model: if it is another one, choose its recipe."
    return Choice(default, f"{why} {_also(fits, default)}", False)


def _also(fits: Sequence[PublishedRecipe], chosen: PublishedRecipe) -> str:
    """The other models with keys and shapes of these records, each family once."""
    families = dict.fromkeys(recipe.title.split(",")[0] for recipe in fits if recipe is not chosen)
    others = "; ".join([*families, "Wan 2.1 itself"])
    return f"Its keys and shapes alone would also be those of: {others}."


def _chosen(structure: Structure, file: str, name: str) -> PublishedRecipe:
    recipe = find_recipe(name)
    if recipe.kind != structure.kind:
        raise ValueError(
            f"Recipe: the recipe {name} is for another self-attention than {file} has, which is {structure}; "
            f"have the file recognised, or choose another recipe."
        )
    return recipe


def caution(file: str) -> str:
    """A sentence if a file's name speaks of weights that are not meant for a stream, else ''."""
    plain = (PLAIN, "Wan 2.1 itself, which was not trained to go on block by block")
    for words, what in CAUTIONS if recipes_in_name(file) else (*CAUTIONS, plain):
        if match := words.search(file.lower()):
            return f"Caution: the name says {match[0]!r}: perhaps {what}."
    return ""
