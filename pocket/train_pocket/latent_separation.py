"""Tunes a settled encoder: what prompts tell apart comes to lie far apart in its latents, all else stays.

An encoder may write blue and cyan a hair's breadth apart. Its decoder then mixes them up, and so does every
transformer over it. Here a `Reader` must tell shape and colour from latents under heavy noise, while the
latents are held to those of the encoder as it was. What has learnt the old latents, a transformer above all,
is a short way from the new ones and is trained on, not anew.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model_patches.vae.wan import TIME_STRIDE, WanVAE
from .checkpointing import Average, Run, hash_seed
from .latent_probe import COLOUR, SHAPE, Reader, named
from .latent_scaling import even_units, fold_units, latents_of_clips
from .vae_batches import Batch, Phase, clip_batch
from .vae_streaming import next_piece
from .vae_update import optimizer_of, set_rates

APART_NOISE = (0.27, 0.9)  # of a latent's spread, drawn for each clip
ANCHOR = 1.0  # weight of the squared way from the old latents
READER_RATE = 8.0  # of the encoder's: it starts from nothing
LANES = 12


def tell_apart(vae: WanVAE, folder: Path, phase: Phase, size: int, device: torch.device) -> None:
    """Train the encoder alone, piece by piece along clips; it is left with its averaged weights.

    Afterwards every channel has mean 0 and spread 1 again over common clips.
    """
    old = copy.deepcopy(vae).requires_grad_(False)
    parts = nn.ModuleDict({"encoder": vae.encoder, "moments": vae.conv1}).requires_grad_(True)
    torch.manual_seed(4)
    reader = Reader(vae.latent_channels).to(device)
    optimizer = optimizer_of(
        {"peak": phase.peak_rate, "params": [*parts.parameters()]},
        {"peak": phase.peak_rate * READER_RATE, "params": [*reader.parameters()]},
    )
    average = Average(parts, 0.99)
    state = {"parts": parts, "reader": reader, "optimizer": optimizer, "average": average}
    run = Run(folder, "vae_apart", state)
    pieces = _Pieces(vae, old, reader, phase, size, device)
    generator = torch.Generator().manual_seed(hash_seed("vae_apart", run.step))
    for loss, figures in pieces.interleaved(run, generator):
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
    fold_units(vae, *even_units(latents_of_clips(vae, size)))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What the losses of a piece of a clip need."""

    vae: WanVAE
    old: WanVAE
    reader: Reader
    phase: Phase
    size: int
    device: torch.device

    def interleaved(self, run: Run, generator: torch.Generator) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Pieces of `LANES` batches of clips, drawn at random, until the run has done the phase's steps."""
        lanes: list[Iterator[tuple[Tensor, dict[str, float]]]] = [iter(()) for _ in range(LANES)]
        while run.step < self.phase.steps:
            yield next_piece(lanes, self.along, generator)

    def along(self, generator: torch.Generator) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Loss and figures of each piece of a fresh batch of clips; gradients end at its border."""
        phase = self.phase
        batch = clip_batch(phase.batch, phase.frames, self.size, generator).to(self.device)
        past = old_past = None
        for start in range(0, phase.frames - 1, TIME_STRIDE):
            some = batch.frames(start + 1 if start else 0, start + 1 + TIME_STRIDE)
            pixels = some.pixels.contiguous(memory_format=torch.channels_last_3d)
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                with torch.no_grad():
                    was, old_past = self.old.encode(pixels, old_past)
                latents, past = self.vae.encode(pixels, past)
            past = tuple(each.detach() for each in past)
            yield self._loss(latents.float(), was.float(), some, generator)

    def _loss(
        self, latents: Tensor, was: Tensor, some: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        low, high = APART_NOISE
        spread = low + (high - low) * torch.rand(len(latents), 1, 1, 1, 1, generator=generator)
        noise = spread * torch.randn(latents.shape, generator=generator)
        logits = self.reader(latents + noise.to(latents.device))
        kinds = F.binary_cross_entropy_with_logits(logits, some.contents)
        shape, colour = (named(logits, some.contents, rows) for rows in (SHAPE, COLOUR))
        anchor = (latents - was).square().mean()
        loss = kinds + 0.3 * shape + 0.5 * colour + ANCHOR * anchor
        figures = {"kinds": kinds, "shape": shape, "colour": colour, "anchor": anchor}
        return loss, {key: float(value.detach()) for key, value in figures.items()}
