"""What is trained and what it is graded by, as the command's options ask for it."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from ...model_patches.arch.mla import MlaModel
from ...model_patches.arch.wan import WanModel
from ...model_patches.checkpoints.checkpoint import VIDEO_MLA, open_checkpoint
from ...model_patches.checkpoints.lora import Lora
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.memory.load import MemoryFile
from ...model_patches.memory.reorder import reorder_encoder
from .. import models
from .lessons import MEMORY
from .lora import Adapters
from .memory_rollout import MemoryRollout
from .sparing import MOST_PRESSURE
from .teacher import load_teacher

RANK = 24


def learners(
    chosen: argparse.Namespace, dit: WanModel, pocket: models.Pocket, memory: MemoryFile | None
) -> tuple[MemoryRollout, Adapters | None]:
    """The model with its encoder, and its low-rank changes; a converted model has none.

    It is trained itself, after the dense model that reads the same memory.
    """
    if not 0 <= chosen.spare <= MOST_PRESSURE:
        raise ValueError(f"--spare {chosen.spare}: a weight, at least 0 and at most {MOST_PRESSURE:g}.")
    if not 0 <= chosen.go_back < 1:
        raise ValueError(f"--go-back {chosen.go_back}: a share of the way, at least 0 and less than 1.")
    if isinstance(dit, MlaModel):
        return _converted(chosen, dit, pocket, memory), None
    return _dense(chosen, dit, pocket, memory)


def _converted(
    chosen: argparse.Namespace, dit: MlaModel, pocket: models.Pocket, memory: MemoryFile | None
) -> MemoryRollout:
    if memory is None or memory.lora is None:
        raise ValueError(
            "a converted model learns to read a memory that is there: train one with the dense model "
            "first, and give its file as --encoder."
        )
    if chosen.go_back or chosen.spare or chosen.teacher:
        raise ValueError(
            "--go-back, --spare and --teacher are for the dense model's low-rank changes; a converted one "
            "has none."
        )
    frames = pocket.recipe.block_frames
    teacher = MemoryRollout(memory.lora.merge(pocket.dit).requires_grad_(False), memory.encoder, frames)
    student = shared_layers(memory.lora).merge(dit)
    if chosen.start:
        load_attentions(student, chosen.start, memory.fingerprint)
    unchanged = MemoryRollout(pocket.dit, memory.encoder, frames)
    encoder = reorder_encoder(memory.encoder, dit.rope_layout)
    return MemoryRollout(student, encoder, frames, teacher, unchanged, sampler=pocket.config())


def _dense(
    chosen: argparse.Namespace, dit: WanModel, pocket: models.Pocket, memory: MemoryFile | None
) -> tuple[MemoryRollout, Adapters]:
    if chosen.start:
        raise ValueError(
            "--start is for a converted model; a dense one goes on from its --encoder's changes."
        )
    if chosen.teacher and not chosen.keep_encoder:
        raise ValueError(
            "--teacher is a model whose memory the changes are to read as it does; give --keep-encoder."
        )
    going_on = chosen.keep_encoder or chosen.go_back or chosen.spare
    if (memory is None or memory.lora is None) and going_on:
        raise ValueError(
            "--keep-encoder, --go-back and --spare leave more or less of a trained memory as it is; give its "
            "file as --encoder."
        )
    frames, grid = pocket.recipe.block_frames, Geometry(pocket.recipe.size, pocket.recipe.size)
    places = (MEMORY.memory_frames, grid.grid_height, grid.grid_width)
    encoder = memory.encoder if memory else MemoryEncoder(EncoderConfig(dit.dim, dit.num_heads, *places))
    unchanged = MemoryRollout(copy.deepcopy(dit), encoder, frames)
    lora = memory.lora if memory else None
    rank = chosen.rank or (lora.ranks[0] if lora else RANK)
    adapters = Adapters.from_lora(dit, lora, rank)
    teacher = load_teacher(chosen.teacher, encoder) if chosen.teacher else None
    return MemoryRollout(dit, encoder, frames, teacher, unchanged, sampler=pocket.config()), adapters


def load_attentions(dit: MlaModel, start: Path, fingerprint: str) -> None:
    """Give a converted model the self-attentions of a file that was taught the memory of this fingerprint."""
    checkpoint = open_checkpoint(start, caller="--start", kind=VIDEO_MLA)
    other = checkpoint.load(torch.float32)
    assert isinstance(other, MlaModel)
    if other.config != dit.config or other.sizes != dit.sizes:
        raise ValueError(f"--start {start}: a model of other sizes than --dit; give one that was made of it.")
    if models.recipe_in("--start", checkpoint).taught != fingerprint:
        raise ValueError(
            f"--start {start} was not taught the memory of --encoder; give the file that was taught it."
        )
    for ours, theirs in zip(dit.blocks, other.blocks, strict=True):
        ours.self_attn.load_state_dict(theirs.self_attn.state_dict())


def shared_layers(lora: Lora) -> Lora:
    """The changes a converted model can take over: of the layers it has in common with the dense one."""
    return Lora(
        {
            name: factors
            for name, factors in lora.layers.items()
            if ".self_attn." not in name or name.endswith(".self_attn.o")
        }
    )
