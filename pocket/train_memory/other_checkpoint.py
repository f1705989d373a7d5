"""A memory for another checkpoint than the pocket's: along encoded videos, or along what it streams itself.

Written for Wan 2.1 1.3B on a GPU. The model stays as it is, in bfloat16; the encoder and the low-rank changes
are trained in float32. The published memory was trained by distribution matching with two more models
(arXiv 2606.04527, section 4); here the flow of clips is learnt, which needs none.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.arch.wan import TEXT_TOKENS, WanModel
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.attention.positions import preset as positions_of
from ...model_patches.attention.sdpa import sdpa
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.memory.load import load_memory
from ...model_patches.memory.resize import resize_encoder
from ...model_patches.stream.config import StreamConfig
from ..convert_mla.chosen_clips import read_texts
from ..convert_mla.command import load_dense
from .clip_lessons import (
    COMMAND,
    GRADED_LATE,
    ClipLessons,
    EncodedClips,
    least_blocks,
    read_clips,
    stream_clips,
)
from .export import export
from .lora import Adapters
from .memory_estimate import Job, MemoryEstimate, estimate, why_not
from .memory_rollout import MemoryRollout
from .trainer import MemoryTraining, Trainer

BLOCK_FRAMES = 3
STREAMS = 64  # clips that the model streams itself
SIZE = (832, 480)  # pixels, of those
RANK = 256  # of the published changes
# not tried on a checkpoint
TRAINING = MemoryTraining(steps=3000, matrix_rate=2e-3, encoder_rate=2e-4, model_rate=1e-4)
FILE = "memory.safetensors"

POCKET_ALONE = {  # options, and what they are where they are not given
    "ordinary": None,
    "beginnings": 0.0,
    "sampled": 0.0,
    "streamed": 0,
    "kept_weight": 1.0,
    "keep_encoder": False,
    "go_back": 0.0,
    "spare": 0.0,
    "teacher": None,
    "start": None,
    "full": 0.0,
}


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, and along what."""

    dit: WanModel
    device: torch.device
    positions: PositionPreset
    geometry: Geometry
    encoder: EncoderConfig
    rank: int
    batch: int
    blocks: int  # of the longest lesson
    clips: EncodedClips | None  # None: to be streamed
    texts_PLE: Tensor | None

    def estimate(self) -> MemoryEstimate:
        """What it needs in memory, counted by running it on shapes."""
        texts = self.texts_PLE if self.clips is None else self.clips.texts_RLE
        return estimate(
            Job(
                self.dit.config,
                self.encoder,
                self.rank,
                self.positions,
                self.geometry,
                BLOCK_FRAMES,
                self.batch,
                TEXT_TOKENS if texts is None else texts.shape[1],
                self.dit.patch_embedding.weight.dtype,
                self.blocks,
                GRADED_LATE + 1,
            )
        )


def train(chosen: argparse.Namespace, folder: Path) -> int:
    """Plan, stream clips where none are named, train, export; the exit status. Raises ValueError, OSError."""
    task = _task(chosen)
    needed = task.estimate()
    print(needed, file=sys.stderr)
    refusal = why_not(needed, task.device)
    if chosen.plan or refusal:
        print(refusal or "train-memory: it fits", file=sys.stderr)
        return 1 if refusal else 0
    task.dit.to(task.device)
    clips = task.clips or _streamed(task, folder / "clips.safetensors")
    rollout, adapters = _learners(chosen.encoder, task)
    sigmas = StreamConfig(task.geometry, task.positions, BLOCK_FRAMES).sigmas
    lessons = ClipLessons(clips, task.positions, BLOCK_FRAMES, sigmas, task.batch, task.device)
    recipe = TRAINING.with_options(chosen.steps, chosen.minutes, chosen.rate)
    recipe = replace(recipe, half=task.device.type == "cuda")
    trainer = Trainer(rollout, lessons, recipe, folder, adapters)
    if chosen.only == "export":
        trainer.learner.load_state_dict(trainer.average.weights())
    else:
        trainer.train()
    if chosen.only != "train":
        trained = f"{trainer.run.step} lessons of {task.batch}, {time.strftime('%Y-%m-%d')}"
        path = (chosen.out or folder / "export") / FILE
        print(export(rollout.encoder, adapters, path, task.positions.name, trained))
    return 0


def fused_attention(q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
    """torch's own attention, in the dtype of the values: mixed precision leaves normed queries in float32."""
    return sdpa(q_BLND.to(v_BLND.dtype), k_BLND.to(v_BLND.dtype), v_BLND)


def _task(chosen: argparse.Namespace) -> Task:
    """All that was asked for, checked before anything is drawn."""
    if chosen.dit is None:
        raise ValueError("--texts, --clips and --plan are for another checkpoint; give it as --dit.")
    if chosen.clips and chosen.texts:
        raise ValueError("clips have texts of their own; give --clips or --texts.")
    if not (chosen.clips or chosen.texts or chosen.plan):
        raise ValueError("give encoded videos as --clips, or prompts as --texts.")
    if options := [name for name, default in POCKET_ALONE.items() if getattr(chosen, name) != default]:
        raise ValueError(
            f"--{options[0].replace('_', '-')} is for the pocket model's lessons; other checkpoints have "
            f"their own."
        )
    if chosen.processes > 1:
        raise ValueError(
            f"--processes {chosen.processes}: a checkpoint of its own is trained by one process."
        )
    device = torch.device(chosen.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    dit, _ = load_dense("--dit", chosen.dit, chosen.nest, dtype)
    positions = positions_of(chosen.positions)
    clips = read_clips(chosen.clips, dit, positions, BLOCK_FRAMES) if chosen.clips else None
    texts_PLE = read_texts(COMMAND, chosen.texts, dit) if chosen.texts else None
    geometry = _geometry(chosen.size, dit, clips)
    blocks = clips.latents_RCTHW.shape[2] // BLOCK_FRAMES if clips else chosen.blocks
    if blocks < (least := least_blocks(positions, BLOCK_FRAMES)):
        raise ValueError(f"--blocks {blocks}: only from {least} on does a whole block see the memory.")
    places = positions.memory_frames, geometry.grid_height, geometry.grid_width
    encoder = EncoderConfig(dit.dim, dit.num_heads, *places)
    sizes = chosen.rank or RANK, chosen.batch or 1, blocks
    return Task(dit, device, positions, geometry, encoder, *sizes, clips, texts_PLE)


def _geometry(size: list[int] | None, dit: WanModel, clips: EncodedClips | None) -> Geometry:
    if clips is not None:
        if size is not None:
            raise ValueError("--size is for clips that are streamed; those of --clips have theirs.")
        size = [8 * side for side in (clips.latents_RCTHW.shape[4], clips.latents_RCTHW.shape[3])]
    width, height = size or SIZE
    return Geometry(width, height, latent_channels=dit.config.in_channels, patch=dit.config.patch[1])


def _streamed(task: Task, path: Path) -> EncodedClips:
    """The folder's clips, streamed by the model without a memory when first asked for."""
    assert task.texts_PLE is not None
    positions = replace(task.positions, memory_frames=0)
    config = StreamConfig(task.geometry, positions, BLOCK_FRAMES, dtype=task.dit.patch_embedding.weight.dtype)
    if not path.exists():
        print(f"streaming {STREAMS} clips of {task.blocks} blocks", file=sys.stderr, flush=True)
        stream_clips(task.dit, task.texts_PLE, config, task.blocks, STREAMS, path)
    return read_clips(path, task.dit, task.positions, BLOCK_FRAMES)


def _learners(file: Path | None, task: Task) -> tuple[MemoryRollout, Adapters]:
    """The model with its changes, and the encoder; those of a file, or fresh."""
    loaded = load_memory(file, task.dit, torch.float32) if file else None
    if loaded is None:
        encoder = MemoryEncoder(task.encoder)
    else:
        encoder = resize_encoder(loaded.encoder, task.encoder.grid_height, task.encoder.grid_width)
    adapters = Adapters.from_lora(task.dit, loaded.lora if loaded else None, task.rank)
    rollout = MemoryRollout(
        task.dit, encoder.to(task.device), BLOCK_FRAMES, attention=fused_attention, recompute=True
    )
    return rollout, adapters
