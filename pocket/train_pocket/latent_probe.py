"""Latents in which what a prompt can name lies in plain sight.

A `Reader`, one 1x1 convolution, must tell from a noisy latent which shape, colour and ground its cell shows.
So these lie in the latents in large, straight directions, where a small diffusion model finds them (the idea
of VA-VAE, arXiv 2501.01423, section 3.2, with the world's truth in place of a vision model). The encoder
learns this alone, on pictures in large batches: beside the decoder's louder errors, a dozen shapes a step, it
never did. The reader is not exported.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model_patches.vae.wan import WanVAE
from .. import world
from .checkpointing import Run, hash_seed
from .latent_scaling import even_units, fold_units, latents_of_clips
from .single_frame import encode_still
from .vae_batches import Phase, clip_batch
from .vae_update import optimizer_of, set_rates

READER_NOISE = 0.25  # of a latent's spread
KINDS_WEIGHT = 0.2  # beside a decoder
SHAPE_WEIGHT = 0.06  # a shape is a few edge pixels: without a word of its own it would be learnt last
LATENT_PENALTY = 3e-4
SHAPE = slice(len(world.SHAPES))  # rows of the contents
COLOUR = slice(len(world.SHAPES), len(world.SHAPES) + len(world.COLOURS))


class Reader(nn.Conv3d):
    """Logits of what each latent's cell shows."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__(latent_channels, world.CONTENTS, 1)

    def losses(self, latents: Tensor, contents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy of all kinds, and of the shape alone where an object is, read from noisy latents."""
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        logits = self(latents.float() + READER_NOISE * noise)
        kinds = F.binary_cross_entropy_with_logits(logits, contents)
        return kinds, named(logits, contents, SHAPE)

    @torch.no_grad()
    def fold(self, offset_C: Tensor, matrix_CC: Tensor) -> None:
        """Read latents in new units, matrix (z - offset), as it read the old ones."""
        weight = self.weight[:, :, 0, 0, 0]
        self.bias += weight @ offset_C.to(weight)
        self.weight.copy_((weight @ torch.linalg.inv(matrix_CC).to(weight))[..., None, None, None])


def named(logits: Tensor, contents: Tensor, rows: slice) -> Tensor:
    """Cross-entropy of a look among its kind, where an object is."""
    shares = contents[:, rows]
    return -(shares * logits[:, rows].log_softmax(1)).sum() / shares.sum().clamp_min(1e-6)


def learn_to_be_read(
    vae: WanVAE, reader: Reader, folder: Path, phase: Phase, size: int, device: torch.device
) -> None:
    """Train encoder and reader on pictures; afterwards latents have the diffusion model's units again."""
    parts = nn.ModuleDict({"encoder": vae.encoder, "moments": vae.conv1, "reader": reader})
    optimizer = optimizer_of({"peak": phase.peak_rate, "params": [*parts.parameters()]})
    run = Run(folder, "vae_read", {"vae": vae, "reader": reader, "optimizer": optimizer})
    generator = torch.Generator().manual_seed(hash_seed("vae_read", run.step))
    if run.step >= phase.steps:
        return
    while run.step < phase.steps:
        set_rates(optimizer, run.step / phase.steps)
        batch = clip_batch(phase.batch, 1, size, generator).to(device)
        pixels = batch.pixels[:, :, 0].contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            latents = encode_still(vae, pixels, first=run.step % 2 == 0)
        kinds, shape = reader.losses(latents, batch.contents, generator)
        loss = kinds + 0.3 * shape + LATENT_PENALTY * latents.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        run.tick(every=20, kinds=kinds.detach(), shape=shape.detach(), latent_std=latents.detach().std())
    units = even_units(latents_of_clips(vae, size))
    fold_units(vae, *units)
    reader.fold(*units)
    run.save()
