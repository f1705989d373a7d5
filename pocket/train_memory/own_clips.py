"""Ordinary clips that the model streams itself, without a memory: what it is to stay like, at its own states.

Nothing is rendered or encoded for them. Both looks of a clip are the same stream.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.stream.step import rollout
from .. import world
from ..models import Pocket
from ..train_pocket.clips import PairedClips, made_of

SEED = 9_100_000  # of prompts and noise


def load_or_stream(path: Path, pocket: Pocket, count: int, blocks: int) -> PairedClips:
    """The clips of a file, streamed and written there first where there is none.

    blocks: 0 for first blocks that are graded where the sampler leads, from noise alone: their prompts are
    all that is needed, and the one block of each is zeros.
    """
    if not path.exists():
        generator = torch.Generator().manual_seed(SEED + blocks)
        scenes = world.sample_scenes(count, generator, band_share=0.0, combinations="seen")
        texts = torch.cat([pocket.encode(prompt) for prompt in scenes.prompts()])
        nothing = torch.zeros(pocket.config().geometry.latent_shape(pocket.recipe.block_frames, count))
        latents = _streams(pocket, texts, blocks) if blocks else nothing
        named = torch.ones(count, dtype=torch.bool)
        pool = PairedClips(torch.stack([latents] * 2, 1).half(), torch.stack([texts] * 2, 1), named)
        pool.save(path, made_of(pocket.vae))
    return PairedClips.load(path, made_of(pocket.vae))


@torch.inference_mode()
def _streams(pocket: Pocket, texts_BLE: Tensor, blocks: int) -> Tensor:
    state = pocket.begin(texts_BLE, pocket.config(SEED))
    return torch.cat([latents for latents, _ in rollout(pocket.caller, state, blocks)], 2)
