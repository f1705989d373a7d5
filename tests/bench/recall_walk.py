"""Walks along stories of hiding: a stream is shown their blocks, or makes them, until the band is lifted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.measured import measured_sdpa
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.attention.sdpa import Attention
from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import CacheFormat
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.stream.model_caller import ModelCaller, Texts
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init, step
from ...model_patches.stream.switch import switch
from ...model_patches.vae.wan import LayerBuffers
from ...pocket.hiding import ENCODED, HIDDEN, LIFTED, VISIBLE, HidingClips, Story
from ...pocket.models import Pocket
from ...pocket.replay import replay
from .recall_verdict import Eyes, Remembered, Sight, judge, sights


@dataclass(frozen=True)
class Contestant:
    """One way to remember, on one model."""

    name: str
    dit: WanModel
    positions: PositionPreset
    cache: CacheFormat = DENSE
    memory: MemoryPolicy = OFF
    attention: Attention = measured_sdpa

    @property
    def caller(self) -> ModelCaller:
        """Runs the model."""
        return ModelCaller(self.dit, attention=self.attention)


@dataclass(frozen=True)
class Stage:
    """What all contestants are given."""

    pocket: Pocket
    told: HidingClips  # of all trials
    lengths: tuple[int, ...]
    batch: int
    eyes: Eyes
    own: bool = False  # the past is of the stream's own making


@dataclass(frozen=True)
class Walk:
    """Latents [B, C, T, H, W] of a story that was walked, up to and with the block that lifts the band."""

    shown_BCTHW: Tensor  # the blocks up to the last in which the object is seen
    hidden_BCTHW: Tensor  # the two blocks before the band is lifted
    lifted_BCTHW: Tensor
    past: int  # tells walks whose past is the same


@dataclass(frozen=True)
class Before:
    """What was seen before the band is lifted, and the decoder's past there."""

    sights: list[Sight | None]
    buffers: LayerBuffers

    def judge(self, eyes: Eyes, lifted_BCTHW: Tensor) -> list[Remembered | None]:
        """What is right about the block's last picture; None for trials that told no story."""
        pictures = eyes.look(lifted_BCTHW, self.buffers)[0][:, -1]
        return [
            None if sight is None else judge(picture[None], [sight])[0]
            for picture, sight in zip(pictures, self.sights, strict=True)
        ]


class Watching:
    """Reads what was seen before; once for walks that saw the same."""

    def __init__(self, eyes: Eyes) -> None:
        self.eyes = eyes
        self._known: dict[int, Before] = {}

    def before(self, walk: Walk, look_B3: Tensor, own: bool) -> Before:
        """What a walk's past shows; see `recall_verdict.sights`."""
        if own or walk.past not in self._known:
            seen = self.eyes.look(walk.shown_BCTHW)[0][:, -1]
            hidden, buffers = self.eyes.look(walk.hidden_BCTHW)
            self._known[walk.past] = Before(sights(seen, hidden[:, -1], look_B3, own), buffers)
        return self._known[walk.past]


def lifted(stage: Stage, contestant: Contestant, told: HidingClips, seed: int) -> Mapping[int, Walk]:
    """The walk up to the block in which the band is lifted, for each number of hidden blocks.

    One walk serves all: whenever it has seen enough hidden blocks the next one is made and thrown away.
    """
    story = Story(ENCODED[VISIBLE], max(stage.lengths), 1)
    before, made = story.parts.index(HIDDEN), dict[int, Walk]()
    blocks: list[Tensor] = []
    for block, state in enumerate(_walked(stage, contestant, told, story, seed)):
        blocks.append(state.tail_BCTHW[:, :, -stage.pocket.recipe.block_frames :])
        hidden = block + 1 - before
        if hidden in stage.lengths:
            prompt = told.texts_BPLE[:, LIFTED], state.prompt[1]
            latents = generate(contestant.caller, state, prompt)
            shown, last = torch.cat(blocks[:before], 2), torch.cat(blocks[-2:], 2)
            made[hidden] = Walk(shown, last, latents, min(hidden, ENCODED[HIDDEN]))
    return made


def _walked(
    stage: Stage, contestant: Contestant, told: HidingClips, story: Story, seed: int
) -> Iterator[StreamState]:
    """The state after each block before the band is lifted: shown, or made by the stream from its prompt."""
    pocket, frames, caller = stage.pocket, stage.pocket.recipe.block_frames, contestant.caller
    latents, texts = told.assemble(story, frames)
    negative = pocket.no_text().expand_as(texts[0]).contiguous()
    state = init(
        caller,
        (texts[0], negative),
        replace(pocket.config(seed), preset=contestant.positions),
        reserve_frames=frames * len(texts),
        cache=contestant.cache,
        memory=contestant.memory,
    )
    for text, clean in zip(texts[:-1], latents.split(frames, 2), strict=False):
        state = switch(caller, state, (text, negative), "smooth")
        state = step(caller, state)[1] if stage.own else replay(caller, state, clean)
        yield state


def generate(caller: ModelCaller, state: StreamState, prompt: Texts) -> Tensor:
    """The next block under another prompt; the state can still be continued."""
    return step(caller, switch(caller, state, prompt, "smooth"))[0]
