"""Clips that the converted model streams itself: its errors are in the context that it then meets.

B streams side by side, C latent channels, T latent frames, L text tokens, E text_dim. The dense model is
asked for its flow there as it is on any other clip, so it says how to come back from them. (As Self Forcing,
arXiv 2506.08009, trains along the model's rollouts; the target here is the dense model's flow.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanModel
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import ModelCaller, texts
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init, step
from .prompts import Prompts
from .rollout import RolloutClips, concat_blocks

BATCHES = 2  # of streams that go on from draw to draw
MAX_BLOCKS = 48  # after which a stream is begun anew under another prompt
UNPROMPTED_SHARE = 0.2  # rows without a prompt: guidance asks for the flow of both

DrawLevels = Callable[[int, torch.Generator], Tensor]  # so many shares of noise


def start_stream(
    model: WanModel, prompts: Prompts, config: StreamConfig, batch: int, generator: torch.Generator
) -> StreamState:
    """The state of new streams, with prompts and a seed at random."""
    text_BLE = prompts.draw(batch, model.patch_embedding.weight, generator)
    seed = int(torch.randint(1 << 30, (), generator=generator))
    prompt = texts(text_BLE, prompts.negative(text_BLE))
    return init(ModelCaller(model, text_BLE.device), prompt, replace(config, seed=seed))


def stream_blocks(model: WanModel, state: StreamState, count: int) -> tuple[list[Tensor], StreamState]:
    """Latents [B, C, T, H, W] of so many blocks, and the state after them."""
    blocks: list[Tensor] = []
    # one that has read no text yet: the layers that read it may have learnt since the last draw
    caller = ModelCaller(model, state.tail_BCTHW.device)
    for _ in range(count):
        latents, state = step(caller, state)
        blocks.append(latents.clone())
    return blocks, state


class StudentRollouts:
    """A source of clips: a stream's first block, then its newest ones, which is what its window holds."""

    def __init__(
        self,
        model: WanModel,
        prompts: Prompts,
        config: StreamConfig,
        levels: DrawLevels,
        blocks: int,
        batch: int,
    ) -> None:
        self.model, self.prompts, self.config, self.levels = model, prompts, config, levels
        self.blocks, self.batch = blocks, batch
        self.streams: list[tuple[Tensor, StreamState]] = []  # first block, state

    def draw(self, generator: torch.Generator) -> RolloutClips:
        """One of the batches, gone on by the blocks of a clip but the first."""
        index = int(torch.randint(BATCHES, (), generator=generator))
        if index >= len(self.streams):
            index = len(self.streams)
            self.streams.append(self._start(generator))
        elif self.streams[index][1].block + self.blocks - 1 > MAX_BLOCKS:
            self.streams[index] = self._start(generator)
        first_BCTHW, state = self.streams[index]
        newest, state = stream_blocks(self.model, state, self.blocks - 1)
        self.streams[index] = (first_BCTHW, state)
        return self._clips([first_BCTHW, *newest], state.prompt[0], generator)

    def _start(self, generator: torch.Generator) -> tuple[Tensor, StreamState]:
        state = start_stream(self.model, self.prompts, self.config, self.batch, generator)
        (first_BCTHW,), state = stream_blocks(self.model, state, 1)
        return first_BCTHW, state

    def _clips(self, blocks: list[Tensor], text_BLE: Tensor, generator: torch.Generator) -> RolloutClips:
        clean, text_BLE = concat_blocks(blocks), text_BLE.clone()
        negative_BLE = self.prompts.negative(text_BLE)
        if negative_BLE is not None:
            unprompted = torch.rand(self.batch, generator=generator) < UNPROMPTED_SHARE
            text_BLE = torch.where(unprompted[:, None, None].to(text_BLE.device), negative_BLE, text_BLE)
        sigmas = tuple(self.levels(self.batch, generator) for _ in range(self.blocks))
        return RolloutClips(clean, clean, (text_BLE,) * self.blocks, sigmas)
