"""The few-step loop of one block. B batch, C channels, T latent frames, H/W of the latent grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from .noise import BlockNoise

Flow = Callable[[Tensor, int], Tensor]  # noisy latents and the index of the call -> flow, same shape
Clean = Callable[[Tensor, int], Tensor]  # the same -> clean latents


@dataclass(frozen=True, slots=True)
class Begin:
    """A block that begins with given latents under noise, not with noise alone."""

    clean_BCTHW: Tensor
    call: int  # the first that is made, and so the level of the noise; the calls before it are left out


def given_like(given_BCTHW: Tensor, like_BCTHW: Tensor) -> Tensor:
    """Given latents in the dtype and on the device of `like`; refused if they are not of its shape."""
    if given_BCTHW.shape != like_BCTHW.shape:
        raise ValueError(
            f"Stream: the given latents are {list(given_BCTHW.shape)}, the stream needs "
            f"{list(like_BCTHW.shape)}; encode the pictures at the stream's size."
        )
    if not given_BCTHW.isfinite().all():
        raise ValueError("Stream: the given latents hold NaN or infinite numbers; encode the pictures again.")
    return given_BCTHW.to(like_BCTHW)


def denoise(
    flow: Flow,
    sigmas: Sequence[float],
    noise: BlockNoise,
    block: int,
    start_frame: int,
    like_BCTHW: Tensor,
    fresh_noise: bool = True,
    begin: Begin | None = None,
) -> Tensor:
    """Clean latents of the block, in the shape, dtype and device of `like`; all arithmetic in that dtype.

    Each call gives the flow v of x = (1-s)*x0 + s*noise, hence x0 = x - s*v. begin: given latents and the
    call that sees them first, as SDEdit (arXiv 2108.01073) goes from one picture to another.
    """
    first = 0 if begin is None else begin.call
    x = first_noisy(sigmas, noise, block, start_frame, like_BCTHW, begin)

    def clean(x_BCTHW: Tensor, call: int) -> Tensor:
        return x_BCTHW - sigmas[call] * flow(x_BCTHW, call)

    return refine(clean, x, sigmas, noise, block, start_frame, fresh_noise, first)


def first_noisy(
    sigmas: Sequence[float],
    noise: BlockNoise,
    block: int,
    start_frame: int,
    like_BCTHW: Tensor,
    begin: Begin | None = None,
) -> Tensor:
    """What the block's first call is given: noise at the first level, over the latents it begins with."""
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
    """Clean latents of the block from x, which is noisy at sigmas[first]; the calls before it are left out.

    Between calls x0 is made noisy again at the next level: with fresh noise, as models distilled to few steps
    are trained (Self-Forcing, arXiv 2506.08009, algorithm 2), or with the noise that x holds beside x0, which
    is an Euler step along the flow, as models that were not distilled want it (Wan 2.1, arXiv 2503.20314).
    """
    x, x0 = x_BCTHW, clean(x_BCTHW, first)
    for call, (before, sigma) in enumerate(pairwise(sigmas[first:]), start=first + 1):
        held = (x - (1 - before) * x0) / before
        x = sigma * (noise.draw(block, call, start_frame, x) if fresh_noise else held) + (1 - sigma) * x0
        x0 = clean(x, call)
    return x0


def guide(flows: Sequence[Tensor], cfg: float) -> Tensor:
    """Flow with guidance, from (prompt, negative); without a negative the prompt's own."""
    if len(flows) == 1:
        return flows[0]
    prompt, negative = flows
    return negative + cfg * (prompt - negative)
