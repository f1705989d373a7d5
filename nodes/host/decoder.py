"""Which decoder a stream gets for a VAE of the host: Wan 2.1's own, or a tiny one for the same latents."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ...model_patches.vae.cost import DecoderCost, WanCost
from ...model_patches.vae.decoder import MAX_LATENTS
from ...model_patches.vae.tiny_cost import TinyCost
from .tiny_vae import HostTinyDecoder, encoded, is_tiny, why_not_tiny, widths
from .vae import PIECE_LATENTS, HostDecoder, HostVaePast, why_not_wan


class StreamDecoder(Protocol):
    """What a take asks of its decoder."""

    def decode(
        self, latents_BCTHW: Tensor, past: HostVaePast | None = None, *, last: bool = False
    ) -> tuple[Tensor, HostVaePast]:
        """(pixels [F, H, W, 3] in [0, 1], past for the next call); last: nothing follows."""
        ...

    def refuse_foreign(self, past: HostVaePast | None) -> None:
        """Raises ValueError for what another kind of decoder kept of a take."""
        ...


def why_not_vae(vae: Any) -> str | None:
    """A sentence if a stream cannot be decoded with the host's VAE, else None."""
    return why_not_tiny(vae) if is_tiny(vae) else why_not_wan(vae)


def decoder_for(vae: Any) -> StreamDecoder:
    """The decoder of a stream; ValueError where `why_not_vae` has something against the VAE."""
    return HostTinyDecoder(vae) if is_tiny(vae) else HostDecoder(vae)


def first_latents(vae: Any, pixels_BHWC: Tensor) -> Tensor:
    """Latents [1, C, T, H/8, W/8] of pictures in [0, 1], in the units of Wan's VAE."""
    return encoded(vae, pixels_BHWC) if is_tiny(vae) else vae.encode(pixels_BHWC)


def decoder_cost(vae: Any) -> tuple[DecoderCost, int]:
    """(what decoding with the host's VAE costs, most latents that it is given at once)."""
    model = vae.first_stage_model
    if not is_tiny(vae):
        return WanCost(model.decoder.conv1.out_channels // 4), PIECE_LATENTS
    beside = sum(weight.numel() for weight in model.encoder.parameters())
    return TinyCost(tuple(widths(vae)), beside), MAX_LATENTS
