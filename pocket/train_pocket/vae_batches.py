"""Freshly drawn clips for training the pocket VAE, and what each latent of them shows."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ...model_patches.vae.wan import SPACE_STRIDE, TIME_STRIDE, WanVAE
from .. import world
from ..models import fingerprint_of_latents
from .record import PhaseRecord

OBJECT_WEIGHT = 4.0  # extra weight of pixels that are not ground
EDGE_WEIGHT = 8.0  # and of those within two pixels of an edge, inside and outside: corners make the shape


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of a VAE's training, on clips of one length."""

    frames: int  # pixel frames of a clip
    batch: int
    steps: int
    peak_rate: float

    def record(self, size: int, of: WanVAE | None = None) -> PhaseRecord:
        """What may not change while it is trained, at this size in pixels; of: a VAE whose latents stay."""
        about = asdict(self) | {"size": size}
        steps = about.pop("steps")
        if of is not None:
            about["latents"] = fingerprint_of_latents(of)
        return PhaseRecord(about, {"steps": steps})


@dataclass(frozen=True, slots=True)
class Batch:
    """B clips: pixels [B, 3, F, H, W] in [-1, 1], each pixel's weight, and what each latent's cell shows."""

    pixels: Tensor
    weight: Tensor  # [B, 1, F, H, W]
    contents: Tensor  # [B, kinds, T, h, w], 0..1

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.pixels.to(device), self.weight.to(device), self.contents.to(device))

    def frames(self, first: int, end: int) -> "Batch":
        """Pixel frames from `first`, a latent's first, up to before `end`."""
        latents = slice((first + TIME_STRIDE - 1) // TIME_STRIDE, (end + TIME_STRIDE - 1) // TIME_STRIDE)
        return Batch(self.pixels[:, :, first:end], self.weight[:, :, first:end], self.contents[:, :, latents])


def clip_batch(count: int, frames: int, size: int, generator: torch.Generator) -> Batch:
    """Fresh clips of 1 + 4k frames."""
    return batch_of(*draw_flights(count, frames, generator), size)


def draw_flights(count: int, frames: int, generator: torch.Generator) -> tuple[world.Scenes, Tensor]:
    """Scenes that training may draw, some with a band, and their objects' places [B, F, N, 2]."""
    scenes = world.sample_scenes(count, generator, band_share=0.25, combinations="seen")
    return scenes, world.simulate(scenes, frames)


def batch_of(scenes: world.Scenes, places: Tensor, size: int) -> Batch:
    """The clips of these flights."""
    pictures = world.render(scenes, places, size).float()
    ground = world.GROUNDS[scenes.ground_B][:, None, None, None]
    things = ((pictures - ground).abs().amax(-1) > 12).float()
    near = max_pool2d(things, 5, 1, 2) + max_pool2d(1 - things, 5, 1, 2) - 1
    weight = (1 + OBJECT_WEIGHT * things + EDGE_WEIGHT * near)[..., None]
    shown = world.contents(scenes, places, size, SPACE_STRIDE)
    later = shown[:, :, 1:].unflatten(2, (-1, TIME_STRIDE)).mean(3)
    to_model = (0, 4, 1, 2, 3)
    return Batch(
        (pictures / 127.5 - 1).permute(to_model),
        weight.permute(to_model),
        torch.cat([shown[:, :, :1], later], 2),
    )
