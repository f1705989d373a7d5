"""Lessens what trained changes do to ordinary streams and keeps what they do along stories of hiding.

A layer's change D meets inputs x. Of all changes D' the one with the least E |D' x - D x|^2 over stories and
`pressure` * E |D' x|^2 over ordinary streams is D' = D S (S + pressure * O)^-1, S and O being the second
moments E x x^T of the inputs on each (least squares with a penalty; ridge regression has the identity for
O). It multiplies A of D = B A alone, so that rank and file stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...model_patches.memory.learned import LearnedMemory
from ...model_patches.memory.load import MemoryFile
from ...model_patches.stream.step import rollout, step
from ...model_patches.stream.switch import switch
from .. import world
from ..hiding import ENCODED, HIDDEN, LIFTED, VISIBLE, HidingClips, Story
from ..models import Pocket
from ..replay import replay
from .lessons import MEMORY
from .lora import Adapters

STREAMS, STORIES = 24, 24
BLOCKS = 10  # of an ordinary stream: two windows and a half behind the first
WAITS = (3, 8)  # blocks hidden, after which the band is lifted for a look
SEED = 9_500_000  # of prompts and noise
MOST_PRESSURE = 10.0
STEADY = 1e-6  # of the mean moment, beside S: it may have no full rank


@dataclass(slots=True)
class Moments:
    """Second moments of what each of a model's changed layers was given."""

    sums: list[Tensor]  # [inputs, inputs] a layer, of x x^T over tokens
    counts: list[int]

    @classmethod
    def empty(cls, adapters: Adapters) -> Moments:
        """Nothing yet."""
        widths = [layer.lora_A.shape[1] for layer in adapters.layers]
        return cls([torch.zeros(width, width) for width in widths], [0] * len(widths))

    @contextmanager
    def watching(self, adapters: Adapters) -> Iterator[None]:
        """Adds what the layers are given meanwhile."""

        def add(index: int, x: Tensor) -> None:
            rows = x.detach().reshape(-1, x.shape[-1]).float().cpu()
            self.sums[index] += rows.T @ rows
            self.counts[index] += len(rows)

        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs, index=index: add(index, inputs[0]))
            for index, layer in enumerate(adapters.layers)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def mean(self, index: int) -> Tensor:
        """E x x^T of a layer, float64; ValueError for one that was given nothing."""
        if not self.counts[index]:
            raise ValueError("Moments: a changed layer was given nothing to see; run a stream of the model.")
        return self.sums[index].double() / self.counts[index]


@torch.no_grad()
def spare(adapters: Adapters, stories: Moments, ordinary: Moments, pressure: float) -> None:
    """Put D' in place of every layer's D; see the module's text."""
    for index, layer in enumerate(adapters.layers):
        kept = stories.mean(index)
        steady = STEADY * kept.trace() / len(kept) * torch.eye(len(kept), dtype=kept.dtype)
        both = kept + pressure * ordinary.mean(index) + steady
        layer.lora_A.copy_((torch.linalg.solve(both, kept) @ layer.lora_A.double().T).T)
    adapters.fold()


def spare_ordinary(
    adapters: Adapters, pocket: Pocket, memory: MemoryFile, stories: HidingClips, pressure: float
) -> None:
    """Run streams and stories of the model that the adapters change, and put D' in place of every D."""
    adapters.fold()
    changed = replace(pocket, recipe=replace(pocket.recipe, preset=MEMORY.name))
    remembers = LearnedMemory(memory.encoder, memory.fingerprint)
    told = stories.select(torch.arange(min(STORIES, len(stories))))
    ordinary = watch_ordinary(changed, remembers, adapters)
    spare(adapters, watch_stories(changed, remembers, adapters, told), ordinary, pressure)


@torch.inference_mode()
def watch_ordinary(pocket: Pocket, memory: LearnedMemory, adapters: Adapters) -> Moments:
    """What the layers are given along ordinary streams that the changed model makes with its memory."""
    generator = torch.Generator().manual_seed(SEED)
    scenes = world.sample_scenes(STREAMS, generator, band_share=0.0, combinations="seen")
    text = torch.cat([pocket.encode(prompt) for prompt in scenes.prompts()])
    moments = Moments.empty(adapters)
    with moments.watching(adapters):
        state = pocket.begin(text, pocket.config(SEED), memory=memory)
        for _ in rollout(pocket.caller, state, BLOCKS):
            pass
    return moments


@torch.inference_mode()
def watch_stories(pocket: Pocket, memory: LearnedMemory, adapters: Adapters, told: HidingClips) -> Moments:
    """What they are given along stories: while these are shown, and where the band is lifted, half each."""
    shown, lifted = Moments.empty(adapters), Moments.empty(adapters)
    frames, story = pocket.recipe.block_frames, Story(ENCODED[VISIBLE], max(WAITS), 1)
    latents, texts = told.assemble(story, frames)
    negative = pocket.no_text().expand_as(texts[0]).contiguous()
    with shown.watching(adapters):
        state = pocket.begin(texts[0], pocket.config(SEED), memory=memory)
    before = story.parts.index(HIDDEN)
    for block, clean in enumerate(latents.split(frames, 2)[:-1]):
        with shown.watching(adapters):
            told_now = switch(pocket.caller, state, (texts[block], negative), "smooth")
            state = replay(pocket.caller, told_now, clean)
        if block + 1 - before in WAITS:
            prompt = told.texts_BPLE[:, LIFTED], negative
            with lifted.watching(adapters):
                step(pocket.caller, switch(pocket.caller, state, prompt, "smooth"))
    return _halves(shown, lifted)


def _halves(shown: Moments, lifted: Moments) -> Moments:
    """Both, weighing the same; a pass that only shows does not run the last layers."""
    layers = range(len(lifted.sums))
    sums = [(shown.mean(i) + lifted.mean(i)) / 2 if shown.counts[i] else lifted.mean(i) for i in layers]
    return Moments(sums, [1] * len(sums))
