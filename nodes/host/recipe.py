"""The recipe of a model: how it is streamed, attached to the MODEL so that every node reads the same."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...model_patches.attention.positions import PRESETS
from ...model_patches.attention.positions import preset as preset_of
from ...model_patches.geometry import Geometry
from ...model_patches.sampler.rolling import BLOCK
from ...model_patches.sampler.schedule import first_sigmas, sigmas
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.timeline import DEFAULT_MODE, MODES
from .caller import dtype_of

KEY = "rivulet_recipe"
FROM_MODEL = "as the model was trained"  # in place of a preset's name


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """The numbers a checkpoint was trained for."""

    preset: str = "infinity_rope"
    block_frames: int = 3  # latent frames denoised together
    cfg: float = 1.0
    sigmas: tuple[float, ...] = sigmas()
    fresh_noise: bool = True  # between calls, as distilled models want it
    name: str = ""  # of the published record, see model_patches.checkpoints.recipes; "": none
    memory: str = "off"  # that the checkpoint was trained with; a stream has the one of Evolving Memory
    switch: str = ""  # to a new prompt, one of timeline.MODES; "": none is said
    first_sigmas: tuple[float, ...] = ()  # of a scene's first block; (): sigmas
    taught: str = ""  # fingerprint of the memory that the weights were taught to read; "": none
    sampler: str = BLOCK  # or ROLLING: as many blocks as there are levels are denoised together


def set_recipe(model: Any, recipe: ModelRecipe) -> None:
    """Attaches the recipe to the MODEL; its clones have it too."""
    model.set_attachments(KEY, recipe)


def parse_recipe(text: str) -> ModelRecipe:
    """The recipe in a file of ours; ValueError, KeyError or TypeError where it cannot be read."""
    stored = json.loads(text)
    if not isinstance(stored, dict):
        raise TypeError("a recipe is a JSON object")
    switch, block_frames = stored.get("switch", ""), stored["block_frames"]
    if switch and switch not in MODES:
        raise ValueError(f"there is no switch {switch!r}")
    recipe = ModelRecipe(
        preset_of(stored["preset"]).name,
        block_frames,
        float(stored["cfg"]),
        sigmas(stored["timesteps"], stored["shift"]),
        bool(stored.get("fresh_noise", True)),
        switch=switch,
        first_sigmas=first_sigmas(stored.get("first_timesteps", ()), stored["shift"]),
        taught=str(stored.get("taught", "")),
    )
    levels = {"sigmas": recipe.sigmas, "first_sigmas": recipe.first_sigmas}
    StreamConfig(
        Geometry(64, 64), recipe.preset, block_frames, cfg=recipe.cfg, **levels
    )  # refuses what none has
    return recipe


def recipe_of(model: Any) -> ModelRecipe:
    """The MODEL's recipe; without one that of Self-Forcing weights, streamed without end."""
    return model.get_attachment(KEY) or ModelRecipe()


def switch_of(model: Any) -> tuple[str, str]:
    """(how the MODEL's recipe changes to a new prompt, a sentence that says so and why)."""
    recipe = recipe_of(model)
    if not recipe.switch:
        return DEFAULT_MODE, f"New prompts: {DEFAULT_MODE}, the usual switch; the model's recipe names none."
    return recipe.switch, f"New prompts: {recipe.switch}, as the recipe {_whose(recipe)} says."


def preset_input(tooltip: str) -> io.Combo.Input:
    """The widget of a position preset."""
    options = [FROM_MODEL, *PRESETS]
    return io.Combo.Input("preset", options=options, default=FROM_MODEL, advanced=True, tooltip=tooltip)


def block_input(tooltip: str) -> io.Int.Input:
    """The widget of latent frames per block, 0: the model's."""
    return io.Int.Input("num_frame_per_block", default=0, min=0, max=21, advanced=True, tooltip=tooltip)


def cfg_input(tooltip: str, advanced: bool | None = None) -> io.Float.Input:
    """The widget of guidance, 0: the model's."""
    return io.Float.Input("cfg", default=0.0, min=0.0, max=20.0, step=0.1, advanced=advanced, tooltip=tooltip)


def overrides(
    model: Any, preset: str, block_frames: int, cfg: float, levels: Tensor | None = None
) -> list[str]:
    """A sentence for each widget that says another thing than the recipe that the MODEL carries."""
    recipe: ModelRecipe | None = model.get_attachment(KEY)
    if recipe is None:
        return []
    levels_in_use = recipe.sigmas if levels is None else _levels(levels)
    pairs = (
        ("preset", recipe.preset if preset == FROM_MODEL else preset, recipe.preset),
        ("num_frame_per_block", block_frames or recipe.block_frames, recipe.block_frames),
        ("cfg", cfg or recipe.cfg, recipe.cfg),
        ("sigmas", _as_text(levels_in_use), _as_text(recipe.sigmas)),
    )
    whose = _whose(recipe)
    return [
        f"{name} is {got}, not the {had} of the recipe {whose}." for name, got, had in pairs if got != had
    ]


def _whose(recipe: ModelRecipe) -> str:
    return f"of {recipe.name}" if recipe.name else "of the model"


def _levels(levels: Tensor) -> tuple[float, ...]:
    return tuple(level for level in levels.tolist() if level > 0)


def _as_text(levels: tuple[float, ...]) -> str:
    return ", ".join(f"{level:.4g}" for level in levels)


def stream_config(
    model: Any,
    width: int,
    height: int,
    preset: str,
    block_frames: int,
    cfg: float,
    levels: Tensor | None = None,
    seed: int = 0,
) -> StreamConfig:
    """The contract of a stream, from what a node's widgets say.

    width, height: pixels. What is left to the model (FROM_MODEL, 0, no levels) is as its recipe says.
    """
    recipe = recipe_of(model)
    for line in overrides(model, preset, block_frames, cfg, levels):
        logging.getLogger(__name__).info("Rivulet: %s", line)
    return StreamConfig(
        Geometry(width, height),
        recipe.preset if preset == FROM_MODEL else preset,
        block_frames or recipe.block_frames,
        recipe.sigmas if levels is None else _levels(levels),
        cfg or recipe.cfg,
        seed,
        dtype_of(model),
        recipe.fresh_noise,
        recipe.first_sigmas if levels is None else (),
        recipe.sampler,
    )
