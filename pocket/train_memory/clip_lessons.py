"""Lessons for a checkpoint that knows no stories of hiding: long clips, encoded videos or its own streams.

A lesson goes along a clip from its first frame, whose latent is unlike the others. It is graded where the
memory stands for frames that have left the window, and once anywhere. R rows (clips), C latent channels, T
latent frames, L text tokens, E text width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.checkpoints.files import open_tensors, save_tensors
from ...model_patches.stream.config import StreamConfig
from ..convert_mla.clip_sources import StreamedClips
from ..convert_mla.prompts import Prompts
from ..train_pocket.whole_file import write_whole
from .lessons import LessonPlan, draw_first_calls
from .memory_rollout import Lesson

MEMORY_FREE_SHARE = (
    0.15  # of the lessons, so that the changed model stays what it is where nothing has left the window
)
FIRST_SHARE = 1 / 3  # of graded calls that are a block's first
GROWTH_SHARE = 0.5  # of the training, in which lessons grow to whole clips
GRADED_LATE = 2  # calls behind the memory's first update; one more is anywhere
COMMAND = "train-memory"


@dataclass(frozen=True, slots=True)
class EncodedClips:
    """Long clips and what each shows."""

    latents_RCTHW: Tensor  # in the model's units
    texts_RLE: Tensor  # as the model's text encoder gives them

    def __len__(self) -> int:
        return len(self.latents_RCTHW)


def least_blocks(positions: PositionPreset, block_frames: int) -> int:
    """Blocks of a clip in which a memory is shown to one block at its every call."""
    assert positions.capacity_frames is not None
    return math.ceil(positions.capacity_frames / block_frames) + 2


def read_clips(path: Path, dit: WanModel, positions: PositionPreset, block_frames: int) -> EncodedClips:
    """The clips of a file: `latents` [clips, C, T, H, W] and `texts` [clips, L, E].

    Refuses other names and shapes, clips that no frame leaves the window of, and numbers that are none.
    """
    with open_tensors(COMMAND, path, "encoded clips") as file:
        names = sorted(file.keys())
        if names != ["latents", "texts"]:
            raise ValueError(
                f"{path} holds {', '.join(names)}; it must hold `latents` [clips, channels, frames, height, "
                f"width] in the model's units and `texts` [clips, tokens, text_dim]."
            )
        clips = EncodedClips(file.get_tensor("latents"), file.get_tensor("texts"))
    latents, texts, frames = clips.latents_RCTHW, clips.texts_RLE, block_frames
    wanted, least = dit.config.in_channels, frames * least_blocks(positions, frames)
    if latents.ndim != 5 or latents.shape[1] != wanted or any(side % 2 for side in latents.shape[3:]):
        raise ValueError(
            f"{path}: `latents` is {tuple(latents.shape)}; it must be [clips, {wanted}, frames, height, "
            f"width], height and width even."
        )
    if latents.shape[2] < least:
        raise ValueError(
            f"{path}: clips have {latents.shape[2]} latent frames; the memory's window of "
            f"{positions.capacity_frames} is left behind from {least} on ({4 * least - 3} pictures)."
        )
    if texts.ndim != 3 or texts.shape[::2] != (len(latents), dit.text_dim):
        raise ValueError(
            f"{path}: `texts` is {tuple(texts.shape)}; it must be [{len(latents)}, tokens, {dit.text_dim}], "
            f"one text a clip."
        )
    for name, tensor in (("latents", latents), ("texts", texts)):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: `{name}` holds NaN or infinite numbers; encode the clips again.")
    return clips


def stream_clips(
    dit: WanModel, texts_PLE: Tensor, config: StreamConfig, blocks: int, count: int, path: Path
) -> None:
    """Write a file of clips that the model streams itself, without a memory, from given prompts."""
    source = StreamedClips(dit, Prompts(texts_PLE), config, blocks, 1)
    generator = torch.Generator().manual_seed(41)
    drawn = [source.draw(generator) for _ in range(count)]
    latents = torch.cat([clips.clean_RCTHW for clips in drawn]).cpu().half()
    texts = torch.cat([clips.texts[0] for clips in drawn]).cpu()
    tensors = {"latents": latents, "texts": texts.contiguous()}
    write_whole(path, lambda partial: save_tensors(tensors, partial))


class ClipLessons:
    """Draws lessons along clips; `done` is the share of the training that lies behind."""

    def __init__(
        self,
        clips: EncodedClips,
        positions: PositionPreset,
        block_frames: int,
        sigmas: tuple[float, ...],
        batch: int,
        device: torch.device,
    ) -> None:
        """sigmas: noise levels of the model's few steps, where a distilled model has been trained."""
        self.clips, self.positions, self.block_frames = clips, positions, block_frames
        self.sigmas, self.batch, self.device = torch.tensor(sigmas), batch, device
        self.blocks = clips.latents_RCTHW.shape[2] // block_frames

    def refresh(self, count: int, limit: int, generator: torch.Generator) -> None:
        """All clips are there from the start."""

    def plan(self, done: float, generator: torch.Generator) -> LessonPlan:
        """What comes next: at first short clips, then longer ones."""
        least = least_blocks(self.positions, self.block_frames)
        grown = least + round(min(1.0, done / GROWTH_SHARE) * (self.blocks - least))
        blocks = int(torch.randint(least, grown + 1, (), generator=generator))
        first = float(torch.rand((), generator=generator)) < FIRST_SHARE
        memory_free = float(torch.rand((), generator=generator)) < MEMORY_FREE_SHARE
        kind = "sink_and_window" if memory_free else "memory"
        positions = replace(self.positions, memory_frames=0) if memory_free else self.positions
        late = torch.randint(least - 2, blocks, (GRADED_LATE,), generator=generator).tolist()
        anywhere = int(torch.randint(0, blocks, (), generator=generator))
        return LessonPlan(kind, positions, None, tuple(sorted((*late, anywhere))), first)

    def lesson(self, plan: LessonPlan, generator: torch.Generator) -> Lesson:
        """The lesson, on clips and noise of this process's own."""
        rows = torch.randint(len(self.clips), (self.batch,), generator=generator)
        frames = self.block_frames * (max(plan.graded) + 1)
        clean = self.clips.latents_RCTHW[rows, :, :frames].to(self.device, torch.float32)
        text = self.clips.texts_RLE[rows].to(self.device)
        graded = tuple((block, self._noise(block, plan.first, generator)) for block in plan.graded)
        return Lesson(clean, clean, (text,) * (max(plan.graded) + 1), graded, plan.positions)

    def _noise(self, block: int, first: bool, generator: torch.Generator) -> Tensor:
        """Each row's share of noise; in the block of the memory's first update all rows are alike."""
        chosen = torch.randint(1, len(self.sigmas), (self.batch,), generator=generator)
        alike = first if block * self.block_frames == self.positions.capacity_frames else None
        firsts = draw_first_calls(self.batch, FIRST_SHARE, alike, generator)
        return torch.where(firsts, 1.0, self.sigmas[chosen])
