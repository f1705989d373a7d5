"""Clips to convert along: the pocket world's, or what the dense model streams itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanModel
from ...model_patches.stream.config import StreamConfig
from .. import text
from ..train_pocket.clips import PairedClips
from ..train_pocket.dit import PocketTraining, damage, draw_sigma
from .prompts import Prompts
from .rollout import RolloutClips, concat_blocks
from .student_rollouts import start_stream, stream_blocks


class PocketClips:
    """The pocket model's own training clips, drawn as its training draws them."""

    def __init__(self, pool: PairedClips, training: PocketTraining, batch: int) -> None:
        self.pool, self.training, self.batch = pool, training, batch

    def draw(self, generator: torch.Generator) -> RolloutClips:
        """A random batch; its context is corrupted, in part of another look, in part without a prompt."""
        training = self.training
        frames = training.block_frames
        clips = self.pool.select(torch.randint(len(self.pool), (self.batch,), generator=generator))
        blocks = clips.latents_BVCTHW.shape[3] // frames
        shown_BN, past_BN = clips.draw_looks(blocks, generator)
        unprompted = torch.rand(self.batch, generator=generator) < training.no_text_share
        texts_BVLC = torch.where(unprompted[:, None, None, None], text.no_text()[0], clips.texts_BVLC)
        rows = torch.arange(self.batch)
        return RolloutClips(
            clips.with_looks(shown_BN, frames),
            damage(clips.with_looks(past_BN, frames), frames, generator),
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
        self, dense: WanModel, prompts: Prompts, config: StreamConfig, blocks: int, batch: int
    ) -> None:
        self.dense, self.prompts, self.config = dense, prompts, config
        self.blocks, self.batch = blocks, batch

    def draw(self, generator: torch.Generator) -> RolloutClips:
        """A batch of new streams."""
        state = start_stream(self.dense, self.prompts, self.config, self.batch, generator)
        blocks, _ = stream_blocks(self.dense, state, self.blocks)
        clean, text_BLE = concat_blocks(blocks), state.prompt[0].clone()
        sigmas = tuple(self.levels(self.batch, generator) for _ in range(self.blocks))
        return RolloutClips(clean, clean, (text_BLE,) * self.blocks, sigmas)

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Some of the noise levels of the model's few steps."""
        levels = torch.tensor(self.config.sigmas)
        return levels[torch.randint(len(levels), (count,), generator=generator)]
