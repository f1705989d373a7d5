"""Trains the VAE as it streams: piece by piece along clips, its layers' past frames handed on.

A step is one piece of one of `LANES` batches of clips, drawn at random, so that steps in a row see other
scenes at other ages; gradients end at the border of a piece. Many steps in a row on the same clips make it
forget the colours of others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...model_patches.vae.wan import TIME_STRIDE, WanVAE
from ..half_products import half_products
from .checkpointing import Run, WeightAverage, hash_seed
from .interleaving import interleave
from .latent_probe import KINDS_WEIGHT, LATENT_PENALTY, SHAPE_WEIGHT, LatentProbe
from .vae_batches import Batch, Phase, clip_batch
from .vae_update import adamw, add_noise, set_rates, update_vae

LANES = 16
PIECE_FRAMES = TIME_STRIDE
ENCODER_RATE = 0.3  # of the decoder's rate: it can be read already


def train_streaming(
    vae: WanVAE, probe: LatentProbe, folder: Path, phase: Phase, size: int, device: torch.device
) -> None:
    """Train encoder and decoder, and the probe with them; the VAE is left with its averaged weights."""
    decoder = [*vae.conv2.parameters(), *vae.decoder.parameters()]
    encoder = [*vae.encoder.parameters(), *vae.conv1.parameters(), *probe.parameters()]
    optimizer = adamw(
        {"peak": phase.peak_rate, "params": decoder},
        {"peak": phase.peak_rate * ENCODER_RATE, "params": encoder},
    )
    _train(_Pieces(vae, probe, phase, size, device, optimizer), vae, folder, "vae_along")


def polish_decoder(vae: WanVAE, folder: Path, phase: Phase, size: int, device: torch.device) -> None:
    """Train the decoder alone: latents, and what was trained on them, stay as they are.

    It is left with its averaged weights.
    """
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    optimizer = adamw({"peak": phase.peak_rate, "params": [*vae.decoder.parameters()]})
    _train(_Pieces(vae, None, phase, size, device, optimizer), vae.decoder, folder, "vae_polish")


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What an update on a piece of a clip needs; without a probe the encoder stays as it is."""

    vae: WanVAE
    probe: LatentProbe | None
    phase: Phase
    size: int
    device: torch.device
    optimizer: torch.optim.Optimizer

    def updates(self, generator: torch.Generator) -> Iterator[dict[str, float]]:
        """One pass along a fresh batch of clips, an update a piece."""
        phase, vae = self.phase, self.vae
        batch = clip_batch(phase.batch, phase.frames, self.size, generator).to(self.device)
        encoded = decoded = None
        for start in range(0, phase.frames - 1, PIECE_FRAMES):
            piece = batch.frames(start + 1 if start else 0, start + 1 + PIECE_FRAMES)
            with half_products(self.device):
                with torch.set_grad_enabled(self.probe is not None):
                    pixels = piece.pixels.contiguous(memory_format=torch.channels_last_3d)
                    latents, encoded = vae.encode(pixels, encoded)
                rebuilt, decoded = vae.decode(add_noise(latents, generator), decoded)
            encoded, decoded = (tuple(state.detach() for state in states) for states in (encoded, decoded))
            probe_loss, figures = self._probe_losses(latents, piece, generator)
            yield update_vae(self.optimizer, rebuilt, piece, probe_loss) | figures | {"after_frames": start}

    def _probe_losses(
        self, latents: torch.Tensor, batch: Batch, generator: torch.Generator
    ) -> tuple[torch.Tensor | float, dict[str, float]]:
        if self.probe is None:
            return 0.0, {}
        kinds, shape = self.probe.losses(latents, batch.contents, generator)
        more = KINDS_WEIGHT * kinds + SHAPE_WEIGHT * shape + LATENT_PENALTY * latents.float().square().mean()
        figures = {"kinds": kinds, "shape": shape, "latent_std": latents.std()}
        return more, {key: float(value.detach()) for key, value in figures.items()}


def _train(pieces: _Pieces, averaged: nn.Module, folder: Path, name: str) -> None:
    """All updates of a phase; `averaged` is left with the average of its weights."""
    phase, average = pieces.phase, WeightAverage(averaged, 0.99)
    parts = {"vae": pieces.vae, "optimizer": pieces.optimizer, "average": average}
    if pieces.probe is not None:
        run = Run(folder, name, parts | {"reader": pieces.probe}, phase=phase.record(pieces.size))
    else:
        run = Run(folder, name, parts, phase=phase.record(pieces.size, of=pieces.vae))
    generator = torch.Generator().manual_seed(hash_seed(name, run.step))
    updates = interleave(pieces.updates, LANES, generator)
    while run.step < phase.steps:
        set_rates(pieces.optimizer, run.step / phase.steps)
        figures = next(updates)
        average.update(averaged, run.step)
        run.tick(every=20, **figures)
    run.save()
    averaged.load_state_dict(average.weights())
