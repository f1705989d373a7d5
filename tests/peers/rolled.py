"""Runs the released code that denoises several blocks together, as `released.py` runs the others.

Started by `peer.run` in a process of its own: python rolled.py FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from released import Job, Tensors, main, pipeline_of
from torch import Tensor


def draws(noise: Tensor) -> Iterator[Tensor]:
    """What their loop draws to renoise a block after a call, in its order.

    They draw for all blocks of the call each time, and use the part of one.
    """
    blocks, levels = noise.shape[:2]
    for window in range(blocks + levels - 1):
        first, last = max(0, window - levels + 1), min(blocks - 1, window)
        for block in range(first, last + 1):
            level = window - block + 1
            if level < levels:
                drawn = noise.new_zeros(last + 1 - first, *noise.shape[2:])
                drawn[block - first] = noise[block, level]
                yield drawn.flatten(0, 1)


def run(job: Job, weights: Tensors, noise: Tensor) -> Tensors:
    """Every call, by number: latents [1, C, T, H, W] as `x`, timesteps, flows; and the finished `video`.

    noise: [blocks, levels, T, C, H, W]; the first of a block is what it begins with.
    """
    pipeline = pipeline_of(job, weights, "kv_cache_clean")
    made: Tensors = {}

    def on_model(_: object, args: tuple[Tensor, ...], named: dict[str, Tensor], flow: Tensor) -> None:
        at = len(made) // 3
        made[f"x.{at}"], made[f"flow.{at}"] = args[0].clone(), flow.clone()
        made[f"timestep.{at}"] = named["t"].double()

    pipeline.generator.model.register_forward_hook(on_model, with_kwargs=True)
    fresh = draws(noise)
    torch.randn_like = lambda like: next(fresh).reshape(like.shape)
    with torch.no_grad():
        _, video = pipeline.inference_rolling_forcing(
            noise[:, 0].flatten(0, 1)[None], [job.prompt], return_latents=True
        )
    assert next(fresh, None) is None, "noise is left over"
    scheduler = pipeline.generator.scheduler
    return {**made, "video": video, "sigmas": scheduler.sigmas, "timesteps": scheduler.timesteps}


if __name__ == "__main__":
    main(Path(sys.argv[1]), run)
