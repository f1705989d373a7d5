"""States that the sampler itself comes to: what a block is graded at, and what its past is made of.

From noise alone the first call says where things will be, and later calls read their places from a noised
picture of that. Trained on noised truth alone they take a place that fell a little short for the truth, and
every call, and every block, adds its own shortfall: things slow down. Here each call is graded where the
sampler's earlier calls lead, by the true continuation, which the past decides.

B clips, N blocks, C channels, T latent frames, H/W latent cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..half_products import half_products
from .teacher_forcing import TeacherForcing

TRUE_PAST_SHARE = 0.3  # of the blocks of a past keep what they were given
CALLS = (0.45, 0.4, 0.15)  # how often the second, third and fourth call is graded
AGAIN_SHARE = 0.35  # of the walks go on from a past that was itself made


@dataclass(frozen=True, slots=True)
class Graded:
    """Noisy latents [B, C, T, H, W], the flow wanted there, the noise level [B, N] and each one's weight."""

    noisy: Tensor
    wanted: Tensor
    sigma_BN: Tensor
    weight: Tensor


class SampledWalk:
    """Makes every block of clips from noise, each from the past it is given, as a stream makes it."""

    def __init__(
        self, teacher: TeacherForcing, levels: Sequence[float], block_frames: int, device: torch.device
    ) -> None:
        self.teacher, self.levels, self.block_frames, self.device = teacher, levels, block_frames, device

    @torch.no_grad()
    def __call__(
        self, context: Tensor, texts: Tensor, of_block: Tensor, generator: torch.Generator
    ) -> tuple[list[Tensor], Tensor]:
        """(latents before each call, latents of the finished blocks), float32."""
        states, made = self._once(context, texts, of_block, generator)
        if float(torch.rand((), generator=generator)) < AGAIN_SHARE:
            past = own_past(context, made, self.block_frames, generator)
            states, made = self._once(past, texts, of_block, generator)
        return states, made

    def _once(
        self, context: Tensor, texts: Tensor, of_block: Tensor, generator: torch.Generator
    ) -> tuple[list[Tensor], Tensor]:
        x = torch.randn(context.shape, generator=generator).to(self.device)
        states: list[Tensor] = []
        for sigma, following in zip(self.levels, (*self.levels[1:], 0.0), strict=True):
            states.append(x)
            level = torch.full((len(x), 1, of_block.shape[1]), sigma, device=self.device)
            with half_products(self.device):
                flow = self.teacher(context, x[:, None], level, texts, of_block)[:, 0]
            x = x + (following - sigma) * flow.float()
        return states, x


def own_past(given: Tensor, made: Tensor, block_frames: int, generator: torch.Generator) -> Tensor:
    """Made blocks in place of most of those given; a first block, which no past decides, stays as given."""
    shape = (len(given), 1, given.shape[2] // block_frames, 1, 1)
    keep = torch.rand(shape, generator=generator) < TRUE_PAST_SHARE
    keep[:, :, 0] = True
    return torch.where(keep.repeat_interleave(block_frames, 2).to(given.device), given, made)


def grade(
    states: Sequence[Tensor],
    levels: Sequence[float],
    clean: Tensor,
    block_frames: int,
    generator: torch.Generator,
) -> Graded:
    """One of the later calls of every block, drawn at random: from there the flow leads to the truth.

    An error counts as what it does to the finished latents, so it is weighed by the level's square. First
    blocks weigh nothing: what they should show is not decided.
    """
    chances = torch.tensor(CALLS)
    B, N = len(clean), clean.shape[2] // block_frames
    call_BN = 1 + torch.multinomial(chances, B * N, replacement=True, generator=generator).view(B, N)
    sigma_BN = torch.tensor(levels)[call_BN]
    call = call_BN.repeat_interleave(block_frames, 1)[:, None, :, None, None]
    noisy = states[1].cpu()
    for index in range(2, len(levels)):
        noisy = torch.where(call == index, states[index].cpu(), noisy)
    sigma = sigma_BN.repeat_interleave(block_frames, 1)[:, None, :, None, None]
    weight = sigma.square().clone()
    weight[:, :, :block_frames] = 0
    return Graded(noisy, (noisy - clean) / sigma, sigma_BN, weight)


def beside(
    noisy: Tensor, wanted: Tensor, sigma_BKN: Tensor, graded: Graded
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The last of K noisy copies replaced by the graded states: noisy, wanted, levels and weights."""
    weight = torch.ones_like(noisy[:, :, :1, :, :1, :1])
    return (
        torch.cat([noisy[:, :-1], graded.noisy[:, None]], 1),
        torch.cat([wanted[:, :-1], graded.wanted[:, None]], 1),
        torch.cat([sigma_BKN[:, :-1], graded.sigma_BN[:, None]], 1),
        torch.cat([weight[:, :-1], graded.weight[:, None]], 1),
    )
