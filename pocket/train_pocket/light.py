"""Trains the decoder's last stages to draw the world in soft light, at twice the size, from the same latents.

Encoder and the decoder's coarse stages stay as they are, and so does all that was trained on the latents:
what is where is settled there. The last stages begin as they are in the VAE, the head as one that repeats
each of its pixels in a square. They are trained along clips, as in `vae_streaming`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.vae.wan import LayerBuffers, Tape, WanVAE, unpacked
from .. import lit
from ..half_products import half_products
from ..lit_weights import FIRST_LIT, UPSCALE, fingerprint_of_vae
from .checkpointing import Run, WeightAverage, hash_seed
from .interleaving import interleave
from .vae_batches import Batch, Phase, batch_of, draw_flights
from .vae_streaming import LANES, PIECE_FRAMES
from .vae_update import adamw, add_noise, set_rates, update_vae

PHASE = "vae_light"  # the name of its checkpoint and of its entry in a training's record


def train_light(
    twice: WanVAE, vae: WanVAE, folder: Path, phase: Phase, size: int, device: torch.device
) -> int:
    """Train the last stages of `twice`, which is left with their averaged weights; the steps in all.

    twice: begun as `lit_weights.enlarged`. vae: what it was begun from. size: of the pictures it encodes.
    """
    coarse, fine = stages(twice)
    twice.requires_grad_(False)
    for layer in fine:
        layer.requires_grad_(True)
    trained = [part for layer in fine for part in layer.parameters()]
    optimizer = adamw({"peak": phase.peak_rate, "params": trained})
    average = WeightAverage(twice.decoder, 0.995)
    parts = {"decoder": twice.decoder, "optimizer": optimizer, "average": average}
    record = phase.record(size, of=vae)
    record = replace(record, about={**record.about, "vae": fingerprint_of_vae(vae)})
    run = Run(folder, PHASE, parts, phase=record)
    generator = torch.Generator().manual_seed(hash_seed(PHASE, run.step))
    pieces = _Pieces(twice, coarse, fine, phase, size, device, optimizer)
    updates = interleave(pieces.updates, LANES, generator)
    while run.step < phase.steps:
        set_rates(optimizer, run.step / phase.steps)
        figures = next(updates)
        average.update(twice.decoder, run.step)
        run.tick(every=20, **figures)
    run.save()
    twice.decoder.load_state_dict(average.weights())
    return run.step


def stages(twice: WanVAE) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers that stay as they are, from latents in the VAE's units on, and those that are trained."""
    decoder = twice.decoder
    layers = [*decoder.upsamples]
    coarse = [twice.conv2, decoder.conv1, *decoder.middle, *layers[:FIRST_LIT]]
    return coarse, [*layers[FIRST_LIT:], *decoder.head]


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What an update on a piece of a clip needs."""

    twice: WanVAE
    coarse: Sequence[nn.Module]
    fine: Sequence[nn.Module]
    phase: Phase
    size: int
    device: torch.device
    optimizer: torch.optim.Optimizer

    def updates(self, generator: torch.Generator) -> Iterator[dict[str, float]]:
        """One pass along a fresh batch of clips, an update a piece."""
        twice = self.twice
        plain, target = (each.to(self.device) for each in light_batch(self.phase, self.size, generator))
        encoded = coarse = fine = None
        for start in range(0, self.phase.frames - 1, PIECE_FRAMES):
            frames = (start + 1 if start else 0, start + 1 + PIECE_FRAMES)
            pixels = plain.frames(*frames).pixels.contiguous(memory_format=torch.channels_last_3d)
            with half_products(self.device):
                with torch.no_grad():
                    latents, encoded = twice.encode(pixels, encoded)
                    noisy = twice.denormalize(add_noise(latents.float(), generator))
                    x, coarse = self._run(self.coarse, noisy, coarse)
                packed, fine = self._run(self.fine, x, fine)
            fine = tuple(state.detach() for state in fine)
            drawn = unpacked(packed, UPSCALE)
            yield update_vae(self.optimizer, drawn, target.frames(*frames)) | {"after_frames": start}

    def _run(
        self, layers: Sequence[nn.Module], x: Tensor, past: LayerBuffers | None
    ) -> tuple[Tensor, LayerBuffers]:
        tape = Tape(past)
        return self.twice.decoder.run(layers, x, tape), tape.buffers()


def light_batch(phase: Phase, size: int, generator: torch.Generator) -> tuple[Batch, Batch]:
    """Fresh clips: flat at this size, and in soft light at that of the lit decoder."""
    scenes, places = draw_flights(phase.batch, phase.frames, generator)
    plain = batch_of(scenes, places, size)
    pictures = lit.render(scenes, places, UPSCALE * size).float() / 127.5 - 1
    weight = plain.weight.repeat_interleave(UPSCALE, -1).repeat_interleave(UPSCALE, -2)
    return plain, Batch(pictures.permute(0, 4, 1, 2, 3), weight, plain.contents)
