"""Clips to convert along: the pocket world's, or what the dense model streams itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanModel
from ...model_patches.stream.state import StreamConfig
from ...model_patches.stream.step import init, step
from .. import text
from ..train_pocket.clips import Clips as Dressed
from ..train_pocket.dit import PocketTraining, damage, draw_sigma
from .rollout import Clips, joined


class PocketClips:
    """The pocket model's own training clips, drawn as its training draws them."""

    def __init__(self, pool: Dressed, training: PocketTraining, batch: int) -> None:
        self.pool, self.training, self.batch = pool, training, batch

    def draw(self, generator: torch.Generator) -> Clips:
        """A random batch; its past is worn, in part another dressing, in part without a prompt."""
        training = self.training
        frames = training.block_frames
        clips = self.pool.pick(torch.randint(len(self.pool), (self.batch,), generator=generator))
        blocks = clips.latents_BVCTHW.shape[3] // frames
        shown_BN, past_BN = clips.dressings(blocks, generator)
        silent = torch.rand(self.batch, generator=generator) < training.no_text_share
        texts_BVLC = torch.where(silent[:, None, None, None], text.no_text()[0], clips.texts_BVLC)
        rows = torch.arange(self.batch)
        return Clips(
            clips.worn(shown_BN, frames),
            damage(clips.worn(past_BN, frames), frames, generator),
            tuple(texts_BVLC[rows, shown_BN[:, block]] for block in range(blocks)),
            tuple(self.levels(self.batch, generator) for _ in range(blocks)),
        )

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Shares of noise as the training draws them."""
        return draw_sigma((count,), self.training, generator)


class StreamedClips:
    """What the dense model streams from given texts: for a checkpoint whose data are not at hand.

    Blocks are made with the engine, few steps each, and serve as clips; noise levels are those of the steps,
    where a distilled model has been trained.
    """

    def __init__(
        self, dense: WanModel, texts_PLE: Tensor, config: StreamConfig, blocks: int, batch: int
    ) -> None:
        """texts_PLE: prompts as the model's text encoder gives them."""
        self.dense, self.texts_PLE, self.config = dense, texts_PLE, config
        self.blocks, self.batch = blocks, batch

    def draw(self, generator: torch.Generator) -> Clips:
        """A batch of new streams."""
        rows = torch.randint(len(self.texts_PLE), (self.batch,), generator=generator)
        seed = int(torch.randint(1 << 30, (), generator=generator))
        text_BLE = self.texts_PLE[rows].to(next(self.dense.parameters()))
        state = init(self.dense, text_BLE, replace(self.config, seed=seed))
        made: list[Tensor] = []
        for _ in range(self.blocks):
            latents, state = step(self.dense, state)
            made.append(latents.clone())
        clean = joined(made)
        sigmas = tuple(self.levels(self.batch, generator) for _ in range(self.blocks))
        return Clips(clean, clean, (text_BLE,) * self.blocks, sigmas)

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Some of the noise levels of the model's few steps."""
        levels = torch.tensor(self.config.sigmas)
        return levels[torch.randint(len(levels), (count,), generator=generator)]
