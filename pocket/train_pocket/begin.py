"""The exported files that a training begins at: they must fit its preset before an hour is spent on them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ...model_patches.arch.wan import WanConfig
from ...model_patches.checkpoints.checkpoint import DENSE, Checkpoint, open_checkpoint
from ...model_patches.vae.load import load_vae
from .. import models
from ..held_out import History
from .presets import Preset
from .record import digest

OPTION = "--start"


VAE_START = "vae_start"  # entry of a training's record


def recipe_at(start: Path) -> models.PocketRecipe:
    """The recipe of a folder of exported files."""
    return models.recipe_in(OPTION, _open(start))


def history_after(start: Path) -> History:
    """Of weights that are trained on from a folder of exported files."""
    recipe = recipe_at(start)
    return recipe.history.trained_on(f"{OPTION} {start}", recipe.trained)


def vae_start(start: Path | None) -> dict[str, str] | None:
    """For the record of a training: the VAE that its own begins at."""
    return None if start is None else {"vae": digest(start / models.VAE_FILE), **asdict(history_after(start))}


def refuse_other_files(preset: Preset, name: str, start: Path) -> None:
    """ValueError for exported files that a training of this preset, called `name`, cannot begin at."""
    checkpoint = _open(start)
    recipe = models.recipe_in(OPTION, checkpoint)
    recipe.history.trained_on(f"{OPTION} {start}", recipe.trained)
    vae = load_vae(start / models.VAE_FILE)
    where = f"{OPTION} {start}"
    models.refuse_other_recipe(where, recipe, preset.size, preset.recipe.block_frames, preset.position_preset)
    found = {
        "a transformer of": (_sizes(checkpoint.config), _sizes(preset.dit)),
        "a VAE of width": (vae.encoder.conv1.out_channels, preset.vae_dim),
    }
    for what, (has, needs) in found.items():
        if has != needs:
            raise ValueError(
                f"{where} has {what} {has}, and --preset {name} trains {needs}. Give files of this preset, "
                f"or name theirs."
            )
    models.refuse_other_latents(OPTION, checkpoint.path, recipe, vae)


def _sizes(config: WanConfig) -> str:
    return (
        f"{config.num_layers} layers, {config.dim} and {config.ffn_dim} channels, {config.num_heads} heads, "
        f"text {config.text_dim} wide"
    )


def _open(start: Path) -> Checkpoint:
    return open_checkpoint(start / models.DIT_FILE, caller=OPTION, kind=DENSE)
