"""Lessons at the states to which the student's sampler leads.

A stream is run as the engine runs it, few steps a block with guidance, by the student; at each state on the
way the dense model, over the same latents, says which flow it would have taken from there. Only prompts are
needed. (Learning at the learner's own states: DAgger, arXiv 1011.0686; on-policy distillation, arXiv
2306.13649. Self Forcing, arXiv 2506.08009, trains along the model's rollouts to match distributions.)

B streams, R rows (a prompt for each, then a negative for each where there is guidance), C latent channels, T
latent frames, L text tokens, E text_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanModel
from ...model_patches.sampler.denoise import denoise, guide
from ...model_patches.sampler.noise import BlockNoise, KeyedNoise
from ...model_patches.stream.config import StreamConfig
from .prompts import Prompts
from .rollout import PairedRollout, read_text_rows, relative_error, uniform
from .trainable_context import ContextInputs

END_CHANCE = 1 / 3  # chance that a stream ends after a block, so a third of all blocks are first ones
SWITCH_CHANCE = 1 / 6  # chance that a stream's prompts change after a block


def call_weights(sigmas: Sequence[float]) -> list[float]:
    """What each call's error counts of a block's: 1 in all.

    A step moves the latents by as much as it lessens the noise (d), of which the error is a part; beside
    what is decided by then (1 less the noise that is left, r) it is a larger part the earlier it comes. Its
    square is weighed by both: d * d / (1 - r).
    """
    steps = [(high - low) ** 2 / (1 - low) for high, low in pairwise((*sigmas, 0.0))]
    return [step / sum(steps) for step in steps]


# latents [R, C, T, H, W] and their share of noise -> (the learner's flow of them, the one that is wanted)
FlowPair = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def grade_sampling(
    config: StreamConfig,
    noise: BlockNoise,
    block: int,
    like_BCTHW: Tensor,
    rows: int,
    flows: FlowPair,
    on_error: Callable[[Tensor], None],
) -> Tensor:
    """Latents [B, C, T, H, W] of a block as the learner makes it, R = `rows`.

    on_error: takes each call's error, the mean of the flow's and the guided flow's relative squared error,
    times the call's weight.
    """
    start, streams = block * config.block_frames, len(like_BCTHW)
    levels = config.levels(start)
    weights = call_weights(levels)

    def flow(x_BCTHW: Tensor, index: int) -> Tensor:
        learnt, wanted = flows(x_BCTHW.repeat(rows // streams, 1, 1, 1, 1), levels[index])
        guided, aim = (guide(x.float().chunk(rows // streams), config.cfg) for x in (learnt, wanted))
        on_error(weights[index] * (relative_error(guided, aim) + relative_error(learnt, wanted)) / 2)
        return guided.detach()

    return denoise(flow, levels, noise, block, start, like_BCTHW, config.fresh_noise)


class StudentSampling:
    """Streams of the student, and the dense model's word on each of its calls."""

    def __init__(
        self,
        rollout: PairedRollout,
        student: WanModel,
        prompts: Prompts,
        config: StreamConfig,
        batch: int,
    ) -> None:
        self.rollout, self.student, self.prompts, self.config = rollout, student, prompts, config
        self.batch = batch
        self.dtype = rollout.dense.patch_embedding.weight.dtype

    def graded_blocks(self, generator: torch.Generator) -> Iterator[dict[str, float]]:
        """A batch of streams from their first block on; each block leaves gradients and gives its error."""
        noise = KeyedNoise(int(torch.randint(1 << 30, (), generator=generator)))
        text_RLE, inputs = self._draw_rows(generator), (ContextInputs(), ContextInputs())
        for block in count():
            latents_RCTHW, error = self.grade_block(block, text_RLE, inputs, noise)
            yield {"loss": error, "block": block}
            if uniform(generator) < END_CHANCE:
                return
            self._append(latents_RCTHW, text_RLE, inputs, block)
            if uniform(generator) < SWITCH_CHANCE:
                text_RLE = self._draw_rows(generator)

    def grade_block(
        self, block: int, text_RLE: Tensor, inputs: tuple[ContextInputs, ContextInputs], noise: KeyedNoise
    ) -> tuple[Tensor, float]:
        """(latents [R, C, T, H, W] that the student makes, the same in both halves; its weighed error).

        inputs: of the dense model's context and of the student's. Leaves gradients where they are enabled.
        """
        dense, config, rollout = self.rollout.dense, self.config, self.rollout
        call, rows, errors = rollout.call(block), len(text_RLE), []
        with torch.no_grad():
            dense_text = read_text_rows(dense, text_RLE)

        def flows(x_RCTHW: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            x_RCTHW = x_RCTHW.to(self.dtype)
            at = x_RCTHW, x_RCTHW.new_full((rows, 1), sigma, dtype=torch.float32)
            with torch.no_grad():
                wanted = rollout.flow_at(dense, *at, dense_text, inputs[0], call)
            text = read_text_rows(self.student, text_RLE)
            return rollout.flow_at(self.student, *at, text, inputs[1], call), wanted

        def on_error(error: Tensor) -> None:
            if error.requires_grad:
                error.backward()
            errors.append(float(error.detach()))

        shape = config.geometry.latent_shape(config.block_frames, self.batch)
        like = torch.empty(shape, device=text_RLE.device)
        latents_BCTHW = grade_sampling(config, noise, block, like, rows, flows, on_error)
        return latents_BCTHW.repeat(rows // self.batch, 1, 1, 1, 1), sum(errors)

    @torch.no_grad()
    def errors(self, blocks: int, seed: int) -> list[float]:
        """The weighed relative error of each block's flow, root mean square, along one batch of streams."""
        generator = torch.Generator().manual_seed(seed)
        text_RLE, inputs, noise = (
            self._draw_rows(generator),
            (ContextInputs(), ContextInputs()),
            KeyedNoise(seed),
        )
        by_block: list[float] = []
        for block in range(blocks):
            latents_RCTHW, error = self.grade_block(block, text_RLE, inputs, noise)
            by_block.append(round(error**0.5, 4))
            self._append(latents_RCTHW, text_RLE, inputs, block)
        return by_block

    @torch.no_grad()
    def _append(
        self, latents_RCTHW: Tensor, text_RLE: Tensor, inputs: tuple[ContextInputs, ContextInputs], block: int
    ) -> None:
        """Add what the student made to the contexts of both models."""
        latents = latents_RCTHW.to(self.dtype)
        for model, its in zip((self.rollout.dense, self.student), inputs, strict=True):
            self.rollout.append_clean(model, latents, read_text_rows(model, text_RLE), its, block)

    def _draw_rows(self, generator: torch.Generator) -> Tensor:
        """Prompts of a batch of streams, then their negatives where there is guidance."""
        text_BLE = self.prompts.draw(self.batch, self.rollout.dense.patch_embedding.weight, generator)
        negative_BLE = self.prompts.negative(text_BLE)
        return text_BLE if negative_BLE is None else torch.cat([text_BLE, negative_BLE])
