"""Which decoder a stream gets for a VAE of the host: Wan 2.1's own, or a tiny one for the same latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ...model_patches.vae.cost import DecoderCost
from ...model_patches.vae.decoder import MAX_LATENTS, StreamDecoder, VaeBuffers
from ...model_patches.vae.fingerprint import fingerprint
from .tiny_vae import HostTinyDecoder, encode, is_tiny, tiny_cost, why_not_tiny
from .vae import PIECE_LATENTS, HostDecoder, wan_cost, why_not_wan


class InModelUnits:
    """A decoder of the host for latents in the model's units."""

    def __init__(self, decoder: HostDecoder | HostTinyDecoder, to_vae: Callable[[Tensor], Tensor]) -> None:
        """to_vae: from the model's units to the VAE's."""
        self._decoder, self._to_vae = decoder, to_vae
        self._fingerprint: Tensor | None = None  # once it was asked for

    def decode(
        self, latents_BCTHW: Tensor, past: VaeBuffers | None, *, last: bool = False, exact: bool = False
    ) -> tuple[Tensor, VaeBuffers]:
        return self._decoder.decode(self._to_vae(latents_BCTHW), past, last=last, exact=exact)

    def refuse_foreign(self, past: VaeBuffers | None) -> None:
        self._decoder.refuse_foreign(past)

    @property
    def forgets_after(self) -> int:
        return self._decoder.forgets_after

    @property
    def in_pairs(self) -> bool:
        return self._decoder.in_pairs

    @property
    def upscale(self) -> int:
        return self._decoder.upscale

    def fingerprint(self) -> Tensor:
        """Of the decoder alone: what encodes may be left out of a VAE's file."""
        if self._fingerprint is None:
            model = self._decoder.vae.first_stage_model
            self._fingerprint = fingerprint(model.decoder.parameters())
        return self._fingerprint

    def weights(self) -> Iterator[Tensor]:
        return self._decoder.vae.first_stage_model.parameters()


def why_not_vae(vae: Any) -> str | None:
    """A sentence if a stream cannot be decoded with the host's VAE, else None."""
    return why_not_tiny(vae) if is_tiny(vae) else why_not_wan(vae)


def decoder_for(vae: Any, to_vae: Callable[[Tensor], Tensor]) -> StreamDecoder:
    """The decoder of a stream; ValueError where `why_not_vae` has something against the VAE.

    to_vae: latents from the model's units to the VAE's, see `HostCaller.to_vae`.
    """
    return InModelUnits(HostTinyDecoder(vae) if is_tiny(vae) else HostDecoder(vae), to_vae)


def first_latents(vae: Any, pixels_BHWC: Tensor) -> Tensor:
    """Latents [1, C, T, H/8, W/8] of pictures in [0, 1], in the units of Wan's VAE."""
    return encode(vae, pixels_BHWC) if is_tiny(vae) else vae.encode(pixels_BHWC)


def decoder_cost(vae: Any) -> tuple[DecoderCost, int]:
    """(what decoding with the host's VAE costs, most latents that it is given at once)."""
    return (tiny_cost(vae), MAX_LATENTS) if is_tiny(vae) else (wan_cost(vae), PIECE_LATENTS)
