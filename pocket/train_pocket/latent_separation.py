"""Tunes a trained encoder: looks that prompts distinguish get distant latents, all else stays.

An encoder may write blue and cyan a hair's breadth from each other. Its decoder then mixes them up, and so
does every transformer over it. Here a `LatentProbe` must read shape and colour from latents under heavy
noise, while the latents are held to those of the encoder as it was. What has learnt the old latents, a
transformer above all, is a short way from the new ones and is trained on, not anew.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model_patches.vae.wan import TIME_STRIDE, WanVAE
from ..half_products import half_products
from .checkpointing import Run, WeightAverage, hash_seed
from .interleaving import interleave
from .latent_probe import COLOUR, SHAPE, LatentProbe, attribute_loss
from .latent_scaling import fold_map, sample_latents, standardizing_map
from .vae_batches import Batch, Phase, clip_batch
from .vae_update import adamw, set_rates

SEPARATION_NOISE = (0.27, 0.9)  # of a latent's spread, drawn for each clip
ANCHOR_WEIGHT = 1.0  # of the squared distance from the old latents
PROBE_RATE = 8.0  # of the encoder's: it starts from nothing
LANES = 12


def separate_latents(vae: WanVAE, folder: Path, phase: Phase, size: int, device: torch.device) -> None:
    """Train the encoder alone, piece by piece along clips; it is left with its averaged weights.

    Afterwards every channel has mean 0 and spread 1 again over common clips.
    """
    old = copy.deepcopy(vae).requires_grad_(False)
    parts = nn.ModuleDict({"encoder": vae.encoder, "moments": vae.conv1}).requires_grad_(True)
    torch.manual_seed(4)
    probe = LatentProbe(vae.latent_channels).to(device)
    optimizer = adamw(
        {"peak": phase.peak_rate, "params": [*parts.parameters()]},
        {"peak": phase.peak_rate * PROBE_RATE, "params": [*probe.parameters()]},
    )
    average = WeightAverage(parts, 0.99)
    state = {"parts": parts, "reader": probe, "optimizer": optimizer, "average": average}
    run = Run(folder, "vae_apart", state, phase=phase.record(size))
    pieces = _Pieces(vae, old, probe, phase, size, device)
    generator = torch.Generator().manual_seed(hash_seed("vae_apart", run.step))
    losses = interleave(pieces.losses, LANES, generator)
    while run.step < phase.steps:
        loss, figures = next(losses)
        set_rates(optimizer, run.step / phase.steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        average.update(parts, run.step)
        run.tick(every=20, **figures)
    run.save()
    parts.load_state_dict(average.weights())
    parts.requires_grad_(False)
    fold_map(vae, *standardizing_map(sample_latents(vae, size)))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What the losses of a piece of a clip need."""

    vae: WanVAE
    old: WanVAE
    probe: LatentProbe
    phase: Phase
    size: int
    device: torch.device

    def losses(self, generator: torch.Generator) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Loss and figures of each piece of a fresh batch of clips; gradients end at its border."""
        phase = self.phase
        batch = clip_batch(phase.batch, phase.frames, self.size, generator).to(self.device)
        past = old_past = None
        for start in range(0, phase.frames - 1, TIME_STRIDE):
            piece = batch.frames(start + 1 if start else 0, start + 1 + TIME_STRIDE)
            pixels = piece.pixels.contiguous(memory_format=torch.channels_last_3d)
            with half_products(self.device):
                with torch.no_grad():
                    old, old_past = self.old.encode(pixels, old_past)
                latents, past = self.vae.encode(pixels, past)
            past = tuple(state.detach() for state in past)
            yield self._loss(latents.float(), old.float(), piece, generator)

    def _loss(
        self, latents: Tensor, old: Tensor, piece: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        low, high = SEPARATION_NOISE
        spread = low + (high - low) * torch.rand(len(latents), 1, 1, 1, 1, generator=generator)
        noise = spread * torch.randn(latents.shape, generator=generator)
        logits = self.probe(latents + noise.to(latents.device))
        kinds = F.binary_cross_entropy_with_logits(logits, piece.contents)
        shape, colour = (attribute_loss(logits, piece.contents, rows) for rows in (SHAPE, COLOUR))
        anchor = (latents - old).square().mean()
        loss = kinds + 0.3 * shape + 0.5 * colour + ANCHOR_WEIGHT * anchor
        figures = {"kinds": kinds, "shape": shape, "colour": colour, "anchor": anchor}
        return loss, {key: float(value.detach()) for key, value in figures.items()}
