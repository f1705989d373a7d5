"""VAE decoders on the device against float64, in two pieces as a stream decodes. F frames, C channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..geometry import LATENT_CHANNELS
from ..vae.decoder import VideoDecoder
from ..vae.tiny import TinyDecoder
from ..vae.wan import WanVAE
from .clock import Clock
from .finding import Finding, compared
from .streams import CPU
from .subject import tiny_decoder, wan_vae
from .tolerance import allowed, relative

SIDE = 6  # latents, each way
PIECES = (1, 2)  # latent frames
DECODERS: dict[str, tuple[Callable[[torch.dtype], WanVAE | TinyDecoder], str]] = {
    "Wan": (wan_vae, "start ComfyUI with --fp32-vae, or --cpu-vae"),
    "tiny": (tiny_decoder, "take Wan's VAE, or start ComfyUI with --fp32-vae"),
}


def check_decoder(name: str, device: torch.device, dtype: torch.dtype, clock: Clock) -> Finding:
    """Frames of one decoder against float64, held to what the processor rounds in the same dtype."""
    make, way = DECODERS[name]
    generator = torch.Generator().manual_seed(8)
    shape = (1, LATENT_CHANNELS, sum(PIECES), SIDE, SIDE)
    latents = torch.randn(shape, generator=generator).to(dtype)
    frames = []
    for there, used in ((CPU, torch.float64), (CPU, dtype), (device, dtype)):
        clock.tick()
        # as the decoder gives them: clamped pixels would hide what is wrong
        frames.append(_frames(make(dtype).to(there, used), latents))
    true, rounded, found = frames
    processor = relative(rounded, true)
    return compared(
        f"VAE decode, {name}",
        relative(found, true),
        allowed(processor, dtype),
        f"{str(dtype).removeprefix('torch.')}: error against float64",
        way,
        {"processor_error": processor},
    )


def _frames(decoder: VideoDecoder, latents: Tensor) -> Tensor:
    latents, past, pixels = latents.to(next(decoder.parameters())), None, []
    for piece in latents.split(PIECES, 2):
        frames, past = decoder.decode(piece, past)
        pixels.append(frames.cpu())
    return torch.cat(pixels, 2)
