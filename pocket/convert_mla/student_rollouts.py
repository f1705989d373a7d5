"""Clips of what the converted model streams by itself: errors of its own are in the past that it then meets.

B streams side by side, C latent channels, T latent frames, L text tokens, E text_dim. The dense model is
asked for its flow there as it is on any other clip, so it says how to come back from them. (As Self Forcing,
arXiv 2506.08009, trains along its own rollouts; the target here is the dense model's flow.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.text import read_text
from ...model_patches.stream.state import StreamConfig, StreamState
from ...model_patches.stream.step import init, step
from .rollout import Clips, joined

HELD = 2  # batches of streams that go on from draw to draw
LONGEST = 48  # blocks, after which a stream is begun anew under another prompt
UNGUIDED = 0.2  # rows without a prompt: guidance asks for the flow of both

Levels = Callable[[int, torch.Generator], Tensor]  # so many shares of noise


class OwnStreams:
    """A source of clips: a stream's first block, then its newest ones, which is what its window holds."""

    def __init__(
        self,
        model: WanModel,
        texts_PLE: Tensor,
        config: StreamConfig,
        levels: Levels,
        blocks: int,
        batch: int,
        negative_1LE: Tensor | None = None,
    ) -> None:
        """texts_PLE: prompts as the model's text encoder gives them. negative: as `stream.init` wants it."""
        self.model, self.texts_PLE, self.config, self.levels = model, texts_PLE, config, levels
        self.blocks, self.batch, self.negative_1LE = blocks, batch, negative_1LE
        self.streams: list[tuple[Tensor, StreamState]] = []

    def draw(self, generator: torch.Generator) -> Clips:
        """One of the batches, gone on by the blocks of a clip but the first."""
        place = int(torch.randint(HELD, (), generator=generator))
        if place >= len(self.streams):
            place = len(self.streams)
            self.streams.append(self._begun(generator))
        elif self.streams[place][1].block + self.blocks - 1 > LONGEST:
            self.streams[place] = self._begun(generator)
        first_BCTHW, state = self.streams[place]
        state = replace(state, text=read_text(self.model, state.text.raw))  # its layers may have learnt
        made = [first_BCTHW]
        for _ in range(self.blocks - 1):
            latents, state = step(self.model, state)
            made.append(latents.clone())
        self.streams[place] = (first_BCTHW, state)
        return self._clips(made, state.text.raw[0], generator)

    def _begun(self, generator: torch.Generator) -> tuple[Tensor, StreamState]:
        rows = torch.randint(len(self.texts_PLE), (self.batch,), generator=generator)
        text_BLE = self.texts_PLE[rows].to(self.model.patch_embedding.weight)
        negative = None
        if self.negative_1LE is not None:
            negative = self.negative_1LE.expand_as(text_BLE).to(text_BLE).contiguous()
        seed = int(torch.randint(1 << 30, (), generator=generator))
        latents, state = step(
            self.model, init(self.model, text_BLE, replace(self.config, seed=seed), negative)
        )
        return latents.clone(), state

    def _clips(self, made: list[Tensor], text_BLE: Tensor, generator: torch.Generator) -> Clips:
        clean = joined(made)
        text_BLE = text_BLE.clone()
        if self.negative_1LE is not None:
            silent = torch.rand(self.batch, generator=generator) < UNGUIDED
            nothing = self.negative_1LE.to(text_BLE)
            text_BLE = torch.where(silent[:, None, None].to(text_BLE.device), nothing, text_BLE)
        sigmas = tuple(self.levels(self.batch, generator) for _ in range(self.blocks))
        return Clips(clean, clean, (text_BLE,) * self.blocks, sigmas)
