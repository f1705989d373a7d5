"""The few-step loop of one block. B batch, C channels, T latent frames, H/W of the latent grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .noise import BlockNoise

Flow = Callable[[Tensor, int], Tensor]  # noisy latents and the index of the call -> flow, same shape


def denoise(
    flow: Flow, sigmas: Sequence[float], noise: BlockNoise, block: int, start_frame: int,
    like_BCTHW: Tensor,
) -> Tensor:
    """Clean latents of the block, in the shape, dtype and device of `like`; all arithmetic in that dtype.

    Each call gives the flow v of x = (1-s)*x0 + s*noise, hence x0 = x - s*v; between calls x0 is made noisy
    again at the next level with fresh noise (Self-Forcing, arXiv 2506.08009, algorithm 2).
    """
    x = sigmas[0] * noise.draw(block, 0, start_frame, like_BCTHW)
    x0 = x - sigmas[0] * flow(x, 0)
    for call, sigma in enumerate(sigmas[1:], start=1):
        x = sigma * noise.draw(block, call, start_frame, like_BCTHW) + (1 - sigma) * x0
        x0 = x - sigma * flow(x, call)
    return x0


def guide(flows: Sequence[Tensor], cfg: float) -> Tensor:
    """Flow with guidance, from (prompt, negative); without a negative the prompt's own."""
    if len(flows) == 1:
        return flows[0]
    prompt, negative = flows
    return negative + cfg * (prompt - negative)
