"""`released.py` for Krea's server, which has a loop of its own around the pipeline's parts.

Before every block but the first its model is run anew over the first latent frame and the last two, clean;
what that leaves in its cache is what the block sees. Nothing else of a block is kept.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from released import Job, Tensors, main, options, put, small, watch, written
from standins import Declared, Text, allow, stand_in
from torch import Tensor, nn


class Decoder:
    """A VAE whose pictures nobody looks at."""

    def __call__(self, latents: Tensor, *past: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        return torch.zeros(1, 4 * latents.shape[1], 3, 1, 1), list(past)


def models_of(job: Job, server: Any, weights: Tensors) -> Any:
    """What `load_all` makes, around a small model with these weights."""
    wrappers = importlib.import_module("utils.wan_wrapper")
    small(job)
    generator = wrappers.WanDiffusionWrapper(timestep_shift=5.0, is_causal=True)
    put(generator, weights)
    for block in generator.model.blocks:
        block.self_attn.fuse_projections()
    pipelines = importlib.import_module("pipeline.causal_inference")
    stand_in(Path(job.checkout))
    text = Text()
    pipeline = pipelines.CausalInferencePipeline(options(job), "cpu", generator, text, nn.Module())
    return server.Models(text, generator, pipeline, None, Decoder())


def serve(job: Job, weights: Tensors, noise: Tensor) -> Tensors:
    """Every call of a session that keeps its first frame. noise: [blocks, calls, T, C, H, W]."""
    allow("fastapi", "fastapi.middleware.cors", "fastapi.responses", "pydantic", "dotenv")
    torch.cuda.Stream = torch.cuda.Event = Declared
    torch.bfloat16 = noise.dtype
    server = importlib.import_module("release_server")
    models = models_of(job, server, weights)
    params = server.GenerateParams()
    params.prompt, params.seed, params.num_blocks, params.keep_first_frame = job.prompt, 0, len(noise), True
    params.height, params.width = (8 * size for size in noise.shape[-2:])
    session = server.GenerationSession(params, options(job), models=models)
    session.noise = noise[:, 0].flatten(0, 1)[None]
    fresh = (draw for block in noise for draw in block[1:])
    torch.randn = lambda *shape, **_: next(fresh).reshape(shape)
    seen = watch(models.transformer, noise.shape[2])
    for _ in noise:
        session.generate_block_internal(models)
    assert next(fresh, None) is None, "noise is left over"
    return written(seen, models.transformer.scheduler)


if __name__ == "__main__":
    main(Path(sys.argv[1]), serve)
