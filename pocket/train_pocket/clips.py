"""Clips for training the pocket model: latents of freshly drawn scenes and the text that goes with them.

B clips, V = 2 looks of a clip (the same flight with other colours, shapes and ground), N blocks of
`block_frames` latent frames. With both looks at hand a training can let the prompt change at any block, or
show a block a past of the other look.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.vae.load import load_vae
from ...model_patches.vae.wan import TIME_STRIDE, WanVAE
from .. import held_out, models, text, world
from ..half_products import half_products
from .paces import at_paces, draw_paces, frames_needed
from .pool import Pool, draw_pool

SWITCH_SHARE = 0.3  # clips whose prompt changes at a block border, and the picture with it
OTHER_PAST_SHARE = 0.35  # clips whose past has the other look: the prompt must be read
FIRST_BATCH = 8  # times as many first blocks side by side as clips
UNNAMED_SHARE = 0.1  # clips whose prompt says "object": colour and shape must come from the past


@dataclass(slots=True)
class PairedClips(Pool):
    """B clips in both looks; what a training draws its batches from."""

    latents_BVCTHW: Tensor  # float16, in the diffusion model's units
    texts_BVLC: Tensor
    named_B: Tensor  # bool, False where the prompt says "object"
    graded_BT: Tensor = field(default_factory=lambda: torch.empty(0))  # bool, False: of no speed of the world

    def __post_init__(self) -> None:
        if not self.graded_BT.numel():  # of a pool that was written before there were paces
            self.graded_BT = torch.ones(len(self), self.latents_BVCTHW.shape[3], dtype=torch.bool)

    def with_looks(self, look_BN: Tensor, block_frames: int) -> Tensor:
        """Latents [B, C, T, H, W], float32, each block in its own look."""
        second = look_BN.repeat_interleave(block_frames, 1)[:, None, :, None, None] == 1
        return torch.where(second, self.latents_BVCTHW[:, 1], self.latents_BVCTHW[:, 0]).float()

    def draw_looks(self, blocks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which look each block [B, N] shall have, and which its past has, by the shares above."""
        count = len(self)
        kind = torch.rand(count, generator=generator)
        start = torch.randint(2, (count, 1), generator=generator)
        border = torch.randint(1, max(2, blocks), (count, 1), generator=generator)
        switches = (self.named_B & (kind < SWITCH_SHARE))[:, None]
        shown = (start + (switches & (torch.arange(blocks) >= border))) % 2
        other = (self.named_B & (kind >= SWITCH_SHARE) & (kind < SWITCH_SHARE + OTHER_PAST_SHARE))[:, None]
        return shown, (shown + other) % 2


def draw_clips(
    vae: WanVAE,
    count: int,
    blocks: int,
    block_frames: int,
    size: int,
    generator: torch.Generator,
    paced: float = 0.0,
    speeds: tuple[float, float] = world.SPEED,
) -> PairedClips:
    """New clips of `blocks` blocks, encoded, whose objects have these speeds, sides of the picture per frame.

    paced: share of the blocks with another pace, see `paces`.
    """
    frames = 1 + TIME_STRIDE * (blocks * block_frames - 1)
    scenes = world.sample_scenes(count, generator, combinations="seen", speeds=speeds)
    other = world.change_looks(scenes, generator, "seen")
    either = replace(scenes, colour_BN=torch.maximum(scenes.colour_BN, other.colour_BN))
    pace_BN = draw_paces(count, blocks, paced, generator) if paced else torch.ones(count, blocks)
    places = at_paces(world.simulate(either, frames_needed(frames)), pace_BN, block_frames)
    latents = [encode_pictures(vae, world.render(looks, places, size)) for looks in (scenes, other)]
    named = torch.rand(count, generator=generator) >= UNNAMED_SHARE
    graded_BT = (pace_BN == 1).repeat_interleave(block_frames, 1)
    return PairedClips(torch.stack(latents, 1).half(), _texts(scenes, other, named), named, graded_BT)


def made_of(vae: WanVAE) -> dict[str, str]:
    """What clips of this VAE are made of, see `Pool.save`."""
    return {"held_out": held_out.fingerprint(), "latents": models.fingerprint_of_latents(vae)}


def load_or_draw(path: Path, count: int, blocks: int, block_frames: int, size: int, seed: int) -> PairedClips:
    """The clips of a file, drawn with the built-in VAE and written there first where there is none."""
    vae = load_vae(models.WEIGHTS / models.VAE_FILE)
    if not path.exists():
        generator, sizes = torch.Generator().manual_seed(seed), (blocks, block_frames, size)
        pool = draw_pool(lambda rows: draw_clips(vae, rows, *sizes, generator), count, "clips")
        pool.save(path, made_of(vae))
    return PairedClips.load(path, made_of(vae))


def _texts(scenes: world.Scenes, other: world.Scenes, named: Tensor) -> Tensor:
    rows = []
    for first, second, plain in zip(scenes.prompts(), other.prompts(), named.tolist(), strict=True):
        rows.append([text.encode(p if plain else world.hide_names(p))[0] for p in (first, second)])
    return torch.stack([torch.stack(row) for row in rows])


@torch.inference_mode()
def encode_pictures(vae: WanVAE, pictures_BFHWC: Tensor, batch: int = 4) -> Tensor:
    """Latents of uint8 clips, float32, a few clips at a time."""
    device = next(vae.parameters()).device
    parts = []
    for clips in pictures_BFHWC.split(batch):
        pixels = (clips.to(device).float() / 127.5 - 1).permute(0, 4, 1, 2, 3)
        with half_products(device):
            parts.append(vae.encode(pixels.contiguous(memory_format=torch.channels_last_3d))[0].float().cpu())
    return torch.cat(parts)
