"""What a pocket stream remembers with: weights, positions and memory are one choice and change together."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from ...model_patches.attention.positions import preset
from ...model_patches.memory.coupling import training_of, why_not
from ...model_patches.memory.ema import EmaSink
from ...model_patches.memory.learned import LearnedMemory
from ...model_patches.memory.load import load_memory
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.memory.resize import for_grid
from ...pocket.models import MEMORY_FILE, WEIGHTS, Pocket

MEMORIES = ("off", "ema", "learned")
POSITIONS = "pocket_memory"  # of a file that does not say


def add_memory_file(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the learned memory's file."""
    parser.add_argument("--memory-file", type=Path, help=f"of learned; default {MEMORY_FILE}, built in")


def remembering(pocket: Pocket, name: str, path: Path | None = None) -> tuple[Pocket, MemoryPolicy]:
    """The model as it is run with this memory, and the memory.

    off and ema take the pocket's own weights and positions. learned takes the positions that its file was
    trained with, and adds the file's LoRA to the weights. Ends the program, with a sentence, where there is
    no such file or its parts do not go together.
    """
    if name == "off":
        return pocket, OFF
    config = pocket.config()
    if name == "ema":
        return pocket, EmaSink(sink_frames=config.positions.sink_frames)
    path = WEIGHTS / MEMORY_FILE if path is None else path
    if not path.exists():
        raise SystemExit(
            f"bench: memory learned needs a trained file, and there is none at {path}; give one with "
            f"--memory-file, or measure off and ema."
        )
    try:
        file = load_memory(path, pocket.dit, torch.float32, model_memory=pocket.recipe.taught)
    except ValueError as error:
        raise SystemExit(f"bench: {error}") from error
    positions = preset(str(file.metadata.get("preset", POSITIONS)))
    training = training_of(file.encoder.config)
    if refusal := why_not(file.encoder, positions, file.changes_the_model):
        raise SystemExit(f"bench: {path}: {refusal}")
    geometry = config.geometry
    encoder = for_grid(file.encoder, geometry.grid_height, geometry.grid_width)
    dit = pocket.dit if file.lora is None else file.lora.merge(pocket.dit)
    said = file.metadata.get("trained", f"fingerprint {file.fingerprint[:16]}")
    trained = f"{pocket.recipe.trained}; with {path.name}, {said}"
    recipe = replace(pocket.recipe, preset=positions.name, trained=trained)
    return replace(pocket, dit=dit, recipe=recipe), LearnedMemory(
        encoder, file.fingerprint, turned=training.turned_keys, recaches=training.recache
    )
