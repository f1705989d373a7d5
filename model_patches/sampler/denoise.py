"""The few-step loop of one block. B batch, C channels, T latent frames, H/W of the latent grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from .noise import BlockNoise

Flow = Callable[[Tensor, int], Tensor]  # (noisy latents, index of the call) -> flow, same shape
Clean = Callable[[Tensor, int], Tensor]  # (noisy latents, index of the call) -> clean latents, same shape


@dataclass(frozen=True, slots=True)
class InitLatents:
    """Latents that a block starts from, with noise added, instead of noise alone (SDEdit)."""

    clean_BCTHW: Tensor
    call: int  # index of the first call, whose level is that of the noise; earlier calls are skipped
    level: float | None = None  # of that call, where it is not the stream's own: above that of the next

    def levels(self, usual: tuple[float, ...]) -> tuple[float, ...]:
        """Noise levels of the block, one per call, where those of the stream are the usual ones."""
        if self.level is None:
            return usual
        return (*usual[: self.call], self.level, *usual[self.call + 1 :])


def match_latents(latents_BCTHW: Tensor, like_BCTHW: Tensor) -> Tensor:
    """The latents in the dtype and on the device of `like`; ValueError for another shape."""
    if latents_BCTHW.shape != like_BCTHW.shape:
        raise ValueError(
            f"Stream: the given latents are {list(latents_BCTHW.shape)}, the stream needs "
            f"{list(like_BCTHW.shape)}; encode the pictures at the stream's size."
        )
    return latents_BCTHW.to(like_BCTHW)


def refuse_nan_latents(latents_BCTHW: Tensor) -> None:
    """ValueError if given latents hold NaN or infinite numbers."""
    if not latents_BCTHW.isfinite().all():
        raise ValueError("Stream: the given latents hold NaN or infinite numbers; encode the pictures again.")


def denoise(
    flow: Flow,
    sigmas: Sequence[float],
    noise: BlockNoise,
    block: int,
    start_frame: int,
    like_BCTHW: Tensor,
    fresh_noise: bool = True,
    begin: InitLatents | None = None,
) -> Tensor:
    """Clean latents of the block, in the shape, dtype and device of `like`; all arithmetic in that dtype.

    Each call returns the flow v at x = (1-s)*x0 + s*noise, hence x0 = x - s*v. begin: latents to start from
    and the first call, as in SDEdit (arXiv 2108.01073).
    """
    first = 0 if begin is None else begin.call
    x = first_input(sigmas, noise, block, start_frame, like_BCTHW, begin)

    def clean(x_BCTHW: Tensor, call: int) -> Tensor:
        return x_BCTHW - sigmas[call] * flow(x_BCTHW, call)

    return refine(clean, x, sigmas, noise, block, start_frame, fresh_noise, first)


def first_input(
    sigmas: Sequence[float],
    noise: BlockNoise,
    block: int,
    start_frame: int,
    like_BCTHW: Tensor,
    begin: InitLatents | None = None,
) -> Tensor:
    """Input of the block's first call: noise at its level, plus the share of `begin`'s latents."""
    first = 0 if begin is None else begin.call
    x = sigmas[first] * noise.draw(block, first, start_frame, like_BCTHW)
    return x if begin is None else x + (1 - sigmas[first]) * begin.clean_BCTHW


def refine(
    clean: Clean,
    x_BCTHW: Tensor,
    sigmas: Sequence[float],
    noise: BlockNoise,
    block: int,
    start_frame: int,
    fresh_noise: bool = True,
    first: int = 0,
) -> Tensor:
    """Clean latents of the block from x, whose noise level is sigmas[first]; earlier calls are skipped.

    Between calls x0 is renoised to the next level: with fresh noise, for models distilled to few steps
    (Self-Forcing, arXiv 2506.08009, algorithm 2), or with the noise estimated from x and x0, an Euler step
    along the flow, for models without distillation (Wan 2.1, arXiv 2503.20314).
    """
    x, x0 = x_BCTHW, clean(x_BCTHW, first)
    for call, (before, sigma) in enumerate(pairwise(sigmas[first:]), start=first + 1):
        estimate = (x - (1 - before) * x0) / before
        x = sigma * (noise.draw(block, call, start_frame, x) if fresh_noise else estimate) + (1 - sigma) * x0
        x0 = clean(x, call)
    return x0


def guide(flows: Sequence[Tensor], cfg: float) -> Tensor:
    """Classifier-free guidance of (prompt, negative) flows; the prompt's flow if it is alone."""
    if len(flows) == 1:
        return flows[0]
    prompt, negative = flows
    return negative + cfg * (prompt - negative)
