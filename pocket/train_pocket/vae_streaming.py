"""Trains the VAE as it is used: piece by piece along clips, the past of its layers handed on.

A step is one piece of one of `LANES` batches of clips, drawn at random, so that steps in a row see other
scenes at other ages; gradients end at the border of a piece. Many steps in a row on the same clips make it
forget the colours of others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ...model_patches.vae.wan import TIME_STRIDE, WanVAE
from .checkpointing import Average, Run, hash_seed
from .latent_probe import KINDS_WEIGHT, LATENT_PENALTY, SHAPE_WEIGHT, Reader
from .vae_batches import Batch, Phase, clip_batch
from .vae_update import descend, noisy, optimizer_of, set_rates

Piece = TypeVar("Piece")
LANES = 16
PIECE_FRAMES = TIME_STRIDE
ENCODER_RATE = 0.3  # of the decoder's rate: it can be read already


def train_along(
    vae: WanVAE, reader: Reader, folder: Path, phase: Phase, size: int, device: torch.device
) -> None:
    """Train encoder and decoder, and the reader with them; the VAE is left with its averaged weights."""
    decoder = [*vae.conv2.parameters(), *vae.decoder.parameters()]
    encoder = [*vae.encoder.parameters(), *vae.conv1.parameters(), *reader.parameters()]
    optimizer = optimizer_of(
        {"peak": phase.peak_rate, "params": decoder},
        {"peak": phase.peak_rate * ENCODER_RATE, "params": encoder},
    )
    _interleaved(_Pieces(vae, reader, phase, size, device, optimizer), vae, folder, "vae_along")


def polish_decoder(vae: WanVAE, folder: Path, phase: Phase, size: int, device: torch.device) -> None:
    """Train the decoder alone: latents, and what was trained on them, stay as they are.

    It is left with its averaged weights.
    """
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    optimizer = optimizer_of({"peak": phase.peak_rate, "params": [*vae.decoder.parameters()]})
    _interleaved(_Pieces(vae, None, phase, size, device, optimizer), vae.decoder, folder, "vae_polish")


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What an update on a piece of a clip needs; without a reader the encoder stays as it is."""

    vae: WanVAE
    reader: Reader | None
    phase: Phase
    size: int
    device: torch.device
    optimizer: torch.optim.Optimizer

    def along(self, generator: torch.Generator) -> Iterator[dict[str, float]]:
        """One pass along a fresh batch of clips, an update a piece."""
        phase, vae = self.phase, self.vae
        batch = clip_batch(phase.batch, phase.frames, self.size, generator).to(self.device)
        encoded = decoded = None
        for start in range(0, phase.frames - 1, PIECE_FRAMES):
            some = batch.frames(start + 1 if start else 0, start + 1 + PIECE_FRAMES)
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                with torch.set_grad_enabled(self.reader is not None):
                    pixels = some.pixels.contiguous(memory_format=torch.channels_last_3d)
                    latents, encoded = vae.encode(pixels, encoded)
                rebuilt, decoded = vae.decode(noisy(latents, generator), decoded)
            encoded, decoded = (tuple(past.detach() for past in each) for each in (encoded, decoded))
            misread, figures = self._misread(latents, some, generator)
            yield descend(self.optimizer, rebuilt, some, misread) | figures | {"after_frames": start}

    def _misread(
        self, latents: torch.Tensor, batch: Batch, generator: torch.Generator
    ) -> tuple[torch.Tensor | float, dict[str, float]]:
        if self.reader is None:
            return 0.0, {}
        kinds, shape = self.reader.losses(latents, batch.contents, generator)
        more = KINDS_WEIGHT * kinds + SHAPE_WEIGHT * shape + LATENT_PENALTY * latents.float().square().mean()
        figures = {"kinds": kinds, "shape": shape, "latent_std": latents.std()}
        return more, {key: float(value.detach()) for key, value in figures.items()}


def next_piece(
    lanes: list[Iterator[Piece]],
    along: Callable[[torch.Generator], Iterator[Piece]],
    generator: torch.Generator,
) -> Piece:
    """The next piece of one of the lanes, drawn at random; a lane at its end begins a fresh batch."""
    lane = int(torch.randint(len(lanes), (), generator=generator))
    piece = next(lanes[lane], None)
    if piece is None:
        lanes[lane] = along(generator)
        piece = next(lanes[lane])
    return piece


def _interleaved(pieces: _Pieces, averaged: nn.Module, folder: Path, name: str) -> None:
    """All updates of a phase; `averaged` is left with the average of its weights."""
    phase, average = pieces.phase, Average(averaged, 0.99)
    parts = {"vae": pieces.vae, "optimizer": pieces.optimizer, "average": average}
    run = Run(folder, name, parts if pieces.reader is None else parts | {"reader": pieces.reader})
    generator = torch.Generator().manual_seed(hash_seed(name, run.step))
    lanes: list[Iterator[dict[str, float]]] = [iter(()) for _ in range(LANES)]
    while run.step < phase.steps:
        set_rates(pieces.optimizer, run.step / phase.steps)
        figures = next_piece(lanes, pieces.along, generator)
        average.update(averaged, run.step)
        run.tick(every=20, **figures)
    run.save()
    averaged.load_state_dict(average.weights())
