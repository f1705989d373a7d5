"""A dense model with a memory of its own, whose flow along stories is wanted in place of the clips'."""

from __future__ import annotations

from pathlib import Path

import torch

from ...model_patches.memory.encoder import MemoryEncoder
from ...model_patches.memory.load import load_memory
from .. import models
from .memory_rollout import MemoryRollout


def load_teacher(folder: Path, encoder: MemoryEncoder) -> MemoryRollout:
    """The dense model of a folder, with its memory's changes.

    Raises ValueError for another memory than this.
    """
    pocket = models.load_pocket(folder)
    memory = load_memory(folder / models.MEMORY_FILE, pocket.dit, torch.float32)
    ours, its = encoder.state_dict(), memory.encoder.state_dict()
    same = ours.keys() == its.keys() and all(ours[key].equal(its[key]) for key in ours)
    if memory.lora is None or not same:
        raise ValueError(
            f"--teacher {folder}: its {models.MEMORY_FILE} is not the memory of --encoder with changes of "
            f"the model; give the folder whose memory that one was made of."
        )
    dit = memory.lora.merge(pocket.dit).requires_grad_(False)
    return MemoryRollout(dit, memory.encoder, pocket.recipe.block_frames)
