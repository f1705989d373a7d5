"""Clips for training the pocket model: latents of freshly drawn scenes and the text of each block.

B clips, N blocks of `block_frames` latent frames, V = 2 texts a clip (before and after a change of prompt).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...model_patches.vae.wan import TIME_STRIDE, WanVAE
from .. import text, world

SWITCH_SHARE = 0.4  # clips whose prompt changes at a block border, and the picture with it
UNNAMED_SHARE = 0.1  # clips whose prompt says "object": colour and shape must come from the context


@dataclass(slots=True)
class Clips:
    """B clips and their texts; what a training draws its batches from."""

    latents_BCTHW: Tensor  # float16, in the diffusion model's units
    texts_BVLC: Tensor
    text_of_block_BN: Tensor  # int64, 0 or 1

    def __len__(self) -> int:
        return len(self.latents_BCTHW)

    def pick(self, rows: Tensor) -> "Clips":
        return Clips(self.latents_BCTHW[rows], self.texts_BVLC[rows], self.text_of_block_BN[rows])

    def joined(self, more: "Clips", limit: int) -> "Clips":
        """Both, the oldest dropped beyond `limit` clips."""
        return Clips(
            *(
                torch.cat([getattr(self, name), getattr(more, name)])[-limit:]
                for name in ("latents_BCTHW", "texts_BVLC", "text_of_block_BN")
            )
        )


def draw_clips(
    vae: WanVAE, count: int, blocks: int, block_frames: int, size: int, generator: torch.Generator
) -> Clips:
    """New clips of `blocks` blocks, encoded."""
    scenes = world.sample_scenes(count, generator)
    border = int(torch.randint(1, blocks, (), generator=generator))
    before = 1 + TIME_STRIDE * (border * block_frames - 1)
    after = TIME_STRIDE * block_frames * (blocks - border)
    places, ahead = world.fly(scenes, before)
    changed = torch.rand(count, generator=generator) < SWITCH_SHARE
    fresh = world.redress(ahead, generator)
    later = world.Scenes(
        *(
            torch.where(
                changed.view(-1, *(1,) * (getattr(ahead, name).ndim - 1)),
                getattr(fresh, name),
                getattr(ahead, name),
            )
            for name in world.Scenes.__dataclass_fields__
        )
    )
    pictures = torch.cat(
        [world.render(scenes, places, size), world.render(later, world.simulate(later, after), size)], 1
    )
    latents = encode_pictures(vae, pictures)
    return Clips(
        latents.half(),
        _texts(scenes, later, changed, generator),
        (torch.arange(blocks) >= border).long().expand(count, -1).clone(),
    )


def _texts(scenes: world.Scenes, later: world.Scenes, changed: Tensor, generator: torch.Generator) -> Tensor:
    unnamed = (torch.rand(len(scenes), generator=generator) < UNNAMED_SHARE) & ~changed
    rows = []
    for first, second, hide in zip(scenes.prompts(), later.prompts(), unnamed.tolist(), strict=True):
        rows.append([text.encode(world.unnamed(p) if hide else p)[0] for p in (first, second)])
    return torch.stack([torch.stack(row) for row in rows])


@torch.inference_mode()
def encode_pictures(vae: WanVAE, pictures_BFHWC: Tensor, batch: int = 4) -> Tensor:
    """Latents of uint8 clips, float32, a few clips at a time."""
    device = next(vae.parameters()).device
    parts = []
    for some in pictures_BFHWC.split(batch):
        pixels = (some.to(device).float() / 127.5 - 1).permute(0, 4, 1, 2, 3)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            parts.append(vae.encode(pixels.contiguous(memory_format=torch.channels_last_3d))[0].float().cpu())
    return torch.cat(parts)
