"""A linear probe that trains the encoder: what a prompt can name must be readable from its latents.

A `LatentProbe`, one 1x1 convolution, must read from a noisy latent which shape, colour and ground its cell
shows. So these lie in the latents in large, straight directions, where a small diffusion model finds them
(the idea of VA-VAE, arXiv 2501.01423, section 3.2, with the world's truth in place of a vision model). The
encoder learns this alone, on pictures in large batches: beside the decoder's louder errors, a dozen shapes a
step, it never did. The probe is not exported.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model_patches.vae.wan import WanVAE
from .. import world
from ..half_products import half_products
from .checkpointing import Run, hash_seed
from .latent_scaling import fold_map, sample_latents, standardizing_map
from .single_frame import encode_frame
from .vae_batches import Phase, clip_batch
from .vae_update import adamw, set_rates

PROBE_NOISE = 0.25  # of a latent's spread
KINDS_WEIGHT = 0.2  # beside a decoder
SHAPE_WEIGHT = 0.06  # a shape is a few edge pixels: without a weight of its own it would be learnt last
LATENT_PENALTY = 3e-4
SHAPE = slice(len(world.SHAPES))  # rows of the contents
COLOUR = slice(len(world.SHAPES), len(world.SHAPES) + len(world.COLOURS))


class LatentProbe(nn.Conv3d):
    """Logits of what each latent's cell shows."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__(latent_channels, world.CONTENTS, 1)

    def losses(self, latents: Tensor, contents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy of all kinds, and of the shape alone where an object is, read from noisy latents."""
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        logits = self(latents.float() + PROBE_NOISE * noise)
        kinds = F.binary_cross_entropy_with_logits(logits, contents)
        return kinds, attribute_loss(logits, contents, SHAPE)

    @torch.no_grad()
    def fold(self, offset_C: Tensor, matrix_CC: Tensor) -> None:
        """Read mapped latents, matrix (z - offset), as it read the old ones."""
        weight = self.weight[:, :, 0, 0, 0]
        self.bias += weight @ offset_C.to(weight)
        self.weight.copy_((weight @ torch.linalg.inv(matrix_CC).to(weight))[..., None, None, None])


def attribute_loss(logits: Tensor, contents: Tensor, rows: slice) -> Tensor:
    """Cross-entropy of an object's colour or shape (`rows` of the contents), where an object is."""
    shares = contents[:, rows]
    return -(shares * logits[:, rows].log_softmax(1)).sum() / shares.sum().clamp_min(1e-6)


def train_probe(
    vae: WanVAE, probe: LatentProbe, folder: Path, phase: Phase, size: int, device: torch.device
) -> None:
    """Train encoder and probe on pictures; afterwards latents are standardized again.

    The checkpoint counts that as one step more: a training may be stopped while they are measured.
    """
    parts = nn.ModuleDict({"encoder": vae.encoder, "moments": vae.conv1, "reader": probe})
    optimizer = adamw({"peak": phase.peak_rate, "params": [*parts.parameters()]})
    run = Run(
        folder, "vae_read", {"vae": vae, "reader": probe, "optimizer": optimizer}, phase=phase.record(size)
    )
    generator = torch.Generator().manual_seed(hash_seed("vae_read", run.step))
    if run.step > phase.steps:
        return
    while run.step < phase.steps:
        set_rates(optimizer, run.step / phase.steps)
        batch = clip_batch(phase.batch, 1, size, generator).to(device)
        pixels = batch.pixels[:, :, 0].contiguous(memory_format=torch.channels_last)
        with half_products(device):
            latents = encode_frame(vae, pixels, first=run.step % 2 == 0)
        kinds, shape = probe.losses(latents, batch.contents, generator)
        loss = kinds + 0.3 * shape + LATENT_PENALTY * latents.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        run.tick(every=20, kinds=kinds.detach(), shape=shape.detach(), latent_std=latents.detach().std())
    scaling = standardizing_map(sample_latents(vae, size))
    fold_map(vae, *scaling)
    probe.fold(*scaling)
    run.step = phase.steps + 1
    run.save()
