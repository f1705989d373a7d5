"""Lessons at the states to which the student's own sampler comes.

A stream is run as the engine runs it, few steps a block with guidance, by the student; at each state on the
way the dense model, over the same latents, says which flow it would have taken from there. Only prompts are
needed. (Learning at the learner's own states: DAgger, arXiv 1011.0686; on-policy distillation, arXiv
2306.13649. Self Forcing, arXiv 2506.08009, trains along own rollouts to match distributions.)

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
from ...model_patches.stream.state import StreamConfig
from .rollout import Walker, chance, read_rows, relative
from .trainable_context import Inputs

ENDS = 1 / 3  # chance that a stream ends after a block, so a third of all blocks are first ones
SWITCHES = 1 / 6  # chance that a stream's prompts change after a block


def weights(sigmas: Sequence[float]) -> list[float]:
    """What each call's error counts of a block's: 1 in all.

    A step moves the latents by as much as it lessens the noise (d), of which the error is a part; beside
    what is decided by then (1 less the noise that is left, r) it is a larger part the earlier it comes. Its
    square is weighed by both: d * d / (1 - r).
    """
    steps = [(high - low) ** 2 / (1 - low) for high, low in pairwise((*sigmas, 0.0))]
    return [step / sum(steps) for step in steps]


# latents [R, C, T, H, W] and their share of noise -> (the learner's flow of them, the one that is wanted)
Flows = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def sampled(
    config: StreamConfig,
    noise: BlockNoise,
    block: int,
    like_BCTHW: Tensor,
    rows: int,
    flows: Flows,
    graded: Callable[[Tensor], None],
) -> Tensor:
    """Latents [B, C, T, H, W] of a block as the learner makes it, R = `rows`.

    graded: is given each call's error, the mean of the flow's and the guided flow's relative squared error,
    times the call's weight.
    """
    start, streams = block * config.block_frames, len(like_BCTHW)
    levels = config.levels(start)
    share = weights(levels)

    def flow(x_BCTHW: Tensor, index: int) -> Tensor:
        made, wanted = flows(x_BCTHW.repeat(rows // streams, 1, 1, 1, 1), levels[index])
        guided, aim = (guide(x.float().chunk(rows // streams), config.cfg) for x in (made, wanted))
        graded(share[index] * (relative(guided, aim) + relative(made, wanted)) / 2)
        return guided.detach()

    return denoise(flow, levels, noise, block, start, like_BCTHW, config.fresh_noise)


class SampledStreams:
    """Streams of the student, and the dense model's word on each of its calls."""

    def __init__(
        self,
        walker: Walker,
        student: WanModel,
        texts_PLE: Tensor,
        config: StreamConfig,
        batch: int,
        negative_1LE: Tensor | None = None,
    ) -> None:
        """texts_PLE: prompts as the model's text encoder gives them. negative: as `stream.init` wants it."""
        self.walker, self.student, self.texts_PLE, self.config = walker, student, texts_PLE, config
        self.batch, self.negative_1LE = batch, negative_1LE
        self.dtype = walker.dense.patch_embedding.weight.dtype

    def along(self, generator: torch.Generator) -> Iterator[dict[str, float]]:
        """A batch of streams from their first block on; each block leaves gradients and gives its error."""
        noise = KeyedNoise(int(torch.randint(1 << 30, (), generator=generator)))
        text_RLE, inputs = self._texts(generator), (Inputs(), Inputs())
        for block in count():
            made_RCTHW, error = self.block(block, text_RLE, inputs, noise)
            yield {"loss": error, "block": block}
            if chance(generator) < ENDS:
                return
            self._take_in(made_RCTHW, text_RLE, inputs, block)
            if chance(generator) < SWITCHES:
                text_RLE = self._texts(generator)

    def block(
        self, block: int, text_RLE: Tensor, inputs: tuple[Inputs, Inputs], noise: KeyedNoise
    ) -> tuple[Tensor, float]:
        """(latents [R, C, T, H, W] that the student makes, the same in both halves; its weighed error).

        inputs: the dense model's and the student's past. Gradients are left where they are asked for.
        """
        dense, config, walker = self.walker.dense, self.config, self.walker
        call, rows, errors = walker.call(block), len(text_RLE), []
        with torch.no_grad():
            dense_text = read_rows(dense, text_RLE)

        def flows(x_RCTHW: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            x_RCTHW = x_RCTHW.to(self.dtype)
            at = x_RCTHW, x_RCTHW.new_full((rows, 1), sigma, dtype=torch.float32)
            with torch.no_grad():
                wanted = walker.flow_at(dense, *at, dense_text, inputs[0], call)
            text = read_rows(self.student, text_RLE)
            return walker.flow_at(self.student, *at, text, inputs[1], call), wanted

        def graded(error: Tensor) -> None:
            if error.requires_grad:
                error.backward()
            errors.append(float(error.detach()))

        shape = config.geometry.latent_shape(config.block_frames, self.batch)
        like = torch.empty(shape, device=text_RLE.device)
        made_BCTHW = sampled(config, noise, block, like, rows, flows, graded)
        return made_BCTHW.repeat(rows // self.batch, 1, 1, 1, 1), sum(errors)

    @torch.no_grad()
    def errors(self, blocks: int, seed: int) -> list[float]:
        """The weighed relative error of each block's flow, root mean square, along one batch of streams."""
        generator = torch.Generator().manual_seed(seed)
        text_RLE, inputs, noise = self._texts(generator), (Inputs(), Inputs()), KeyedNoise(seed)
        found: list[float] = []
        for block in range(blocks):
            made_RCTHW, error = self.block(block, text_RLE, inputs, noise)
            found.append(round(error**0.5, 4))
            self._take_in(made_RCTHW, text_RLE, inputs, block)
        return found

    @torch.no_grad()
    def _take_in(
        self, made_RCTHW: Tensor, text_RLE: Tensor, inputs: tuple[Inputs, Inputs], block: int
    ) -> None:
        """Both models take what the student made into their pasts."""
        latents = made_RCTHW.to(self.dtype)
        for model, past in zip((self.walker.dense, self.student), inputs, strict=True):
            self.walker.take_in(model, latents, read_rows(model, text_RLE), past, block)

    def _texts(self, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.texts_PLE), (self.batch,), generator=generator)
        text_BLE = self.texts_PLE[rows].to(self.walker.dense.patch_embedding.weight)
        if self.negative_1LE is None:
            return text_BLE
        return torch.cat([text_BLE, self.negative_1LE.to(text_BLE).expand_as(text_BLE)])
