"""How a pocket stream keeps its frames and remembers: model, format, positions and memory are one choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..model_patches.attention.positions import preset
from ..model_patches.cache.format import CacheFormat
from ..model_patches.cache.formats import find_format
from ..model_patches.cache.kind import CacheKind
from ..model_patches.cache.shapes import NO_EXACT, Exact
from ..model_patches.geometry import Geometry
from ..model_patches.memory.policies import find_policy
from ..model_patches.memory.policy import MemoryPolicy
from .defaults import DEFAULT, FLAT, LIT, LOOKS, PLAIN, Names
from .held_out import History
from .lit_weights import LIT_FILE, load_lit
from .models import (
    BASIS_FILE,
    DIT_FILE,
    MEMORY_FILE,
    MLA_FILE,
    MLA_MEMORY_FILE,
    VAE_FILE,
    WEIGHTS,
    Pocket,
    load_pocket,
)

MODELS = (DIT_FILE, MLA_FILE, MLA_MEMORY_FILE)  # the first that goes with cache and memory is taken


@dataclass(frozen=True, slots=True)
class Choice:
    """What a stream is begun with."""

    pocket: Pocket  # as it is run with the memory
    cache: CacheFormat
    memory: MemoryPolicy

    @property
    def names(self) -> Names:
        """Of both, for users."""
        return Names(self.cache.name, self.memory.name)

    @property
    def look(self) -> str:
        """The name of how its pictures look."""
        return FLAT if self.pocket.vae.upscale == 1 else LIT


def choose(
    cache: str | None = None,
    memory: str | None = None,
    folder: Path | None = None,
    *,
    memory_file: Path | None = None,
    geometry: Geometry | None = None,
    dtype: torch.dtype = torch.float32,
    look: str | None = FLAT,
) -> Choice:
    """The built-in model that goes with a cache and a memory of these names, and both.

    None: `DEFAULT`, or `PLAIN` where the weights lack the file that the default is built from, or where the
    memory that is named cannot work with the cache.
    folder: of other weights. memory_file: instead of the one in the folder. geometry: None, as trained. look:
    see `with_look`.
    Raises ValueError, in a user's words, for names that are not in the tables, for weights that do not go
    with them and for a memory's file that is not there; FileNotFoundError for another file that is not.
    """
    names = _given(cache, memory, folder, memory_file)
    kind = find_format(names.cache)
    pocket = with_look(model_for(kind, names.memory, folder, dtype), look, folder)
    pocket, policy = remembering(pocket, names.memory, memory_file or _in(folder, MEMORY_FILE), geometry)
    chosen = Choice(pocket, build(kind, pocket, folder), policy)
    if cache is None and names.cache != PLAIN.cache and why_not(chosen, geometry):
        plain = find_format(PLAIN.cache)
        return replace(chosen, cache=build(plain, pocket, folder))
    return chosen


def why_not(chosen: Choice, geometry: Geometry | None = None) -> str | None:
    """A sentence where the memory cannot work with the cache, else None. geometry: None, as trained."""
    pocket, config = chosen.pocket, chosen.pocket.config(geometry=geometry)
    shape = pocket.caller.shape(pocket.prompt(pocket.no_text(), config), config)
    return chosen.memory.why_not(shape, config.positions, chosen.cache.cost)


def _given(cache: str | None, memory: str | None, folder: Path | None, memory_file: Path | None) -> Names:
    """Both names: those that are given, and what holds in place of one that is not."""
    if cache is None:
        has_file = find_format(DEFAULT.cache).source is None or _in(folder, BASIS_FILE).exists()
        cache = DEFAULT.cache if has_file else PLAIN.cache
    if memory is None:
        has_file = not find_policy(DEFAULT.memory).files or (memory_file or _in(folder, MEMORY_FILE)).exists()
        memory = DEFAULT.memory if has_file else PLAIN.memory
    return Names(cache, memory)


def build(
    kind: CacheKind, pocket: Pocket, folder: Path | None = None, exact: Exact = NO_EXACT
) -> CacheFormat:
    """A format for the pocket, from the file beside its weights where it is built from one."""
    source: Any = None if kind.source is None else kind.source.load(_in(folder, BASIS_FILE))
    return kind.build(pocket.dit, exact, source)


def remembering(
    pocket: Pocket,
    name: str,
    path: Path = WEIGHTS / MEMORY_FILE,
    geometry: Geometry | None = None,
    options: Mapping[str, bool | float] | None = None,
) -> tuple[Pocket, MemoryPolicy]:
    """The model as it is run with this memory, and the memory.

    path: of a memory that is built from a file, whose LoRA is added to the weights. geometry: of the stream,
    None as trained. Raises ValueError where there is no such file or its parts do not go together.
    """
    kind, source, recipe = find_policy(name), None, pocket.recipe
    if refusal := kind.why_not(pocket.dit, recipe.taught):
        raise ValueError(f"Memory: {refusal}")
    if kind.files:
        if not path.exists():
            raise ValueError(f"Memory {name} needs {kind.needs}, and there is none at {path}.")
        source = kind.load(path, pocket.dit, recipe.taught, torch.float32)
        history = recipe.history.beside(History.of(source.metadata))
        trained = f"{recipe.trained}; with {path.name}, {source.trained}"
        recipe = replace(recipe, trained=trained, **asdict(history))
        if source.lora is not None:
            pocket = replace(pocket, dit=source.lora.merge(pocket.dit))
    recipe = replace(recipe, preset=preset(kind.preset(recipe.preset, source)).name)
    pocket = pocket if recipe == pocket.recipe else replace(pocket, recipe=recipe)
    config = pocket.config(geometry=geometry)
    device = next(pocket.dit.parameters()).device
    return pocket, kind.build(config, device, source, options or {})


def model_for(
    kind: CacheKind, memory: str, folder: Path | None = None, dtype: torch.dtype = torch.float32
) -> Pocket:
    """The first of the built-in models, or of those in a folder, that goes with cache and memory.

    Raises ValueError where none does.
    """
    policy, refusal = find_policy(memory), None
    for file in MODELS:
        if file != DIT_FILE and not _in(folder, file).exists():
            continue
        pocket = load_pocket(folder, dtype, file)
        why = kind.why_not(pocket.dit) or policy.why_not(pocket.dit, pocket.recipe.taught)
        if why is None:
            return pocket
        refusal = refusal or why
    raise ValueError(str(refusal))


def with_look(pocket: Pocket, look: str | None, folder: Path | None = None) -> Pocket:
    """The model with the decoder that draws its pictures so; its latents are the same in every look.

    look: None, in soft light where the folder has the file for it. Raises ValueError for a name that is none,
    for a folder without the file, for a file of another VAE and for a VAE that draws no plain pictures.
    """
    path = _in(folder, LIT_FILE)
    if pocket.vae.upscale != 1:
        raise ValueError(
            f"Look: {_in(folder, VAE_FILE)} draws twice the size itself; the pocket's VAE draws plain "
            f"pictures of the stream's size, and {LIT_FILE} beside it those in soft light. Give one whose "
            f"head has 3 channels, as `python run.py train-pocket` exports it."
        )
    if look is None:
        look = LIT if path.exists() else FLAT
    if look not in LOOKS:
        raise ValueError(f"Look: there is no {look!r}; there are {', '.join(LOOKS)}.")
    if look == FLAT:
        return pocket
    if not path.exists():
        raise ValueError(
            f"Look {look} needs {path}, and there is none. Choose {FLAT}, or make it: `python run.py "
            f"train-pocket --only lit`."
        )
    return replace(pocket, vae=load_lit(pocket.vae, path))


def _in(folder: Path | None, name: str) -> Path:
    return (WEIGHTS if folder is None else folder) / name
