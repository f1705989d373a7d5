"""The host's Wan VAE as a streaming encoder: exactly the latents of its own encode of the whole.

C channels, F pixel frames, T latent frames, H/W of the picture or of the latent grid. The host's encoder
joins what it keeps only when latents leave it as one, then two by two, so eight pictures go in together.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...model_patches.geometry import LATENT_CHANNELS
from ...model_patches.transfer import to_device
from ...model_patches.vae.wan import SPACE_STRIDE, TIME_STRIDE
from .loaded import load_models
from .once import check_once
from .same import refuse_other
from .vae import LAYERS, KeptFrames, why_not_wan

AT_ONCE = 2  # pictures that the host's encoder is given in one call after the first
GROUP = 2 * TIME_STRIDE  # pictures after which it holds nothing back


@dataclass(frozen=True, slots=True)
class EncoderPast:
    """What encoding needs to go on; replaced by each piece, never changed."""

    layers: tuple[Any, ...] | None  # kept frames of every causal layer; None before the first picture
    waiting_FHWC: Tensor  # pictures of a group that is not full


class HostEncoder:
    """Encodes one stream through a VAE of the host. Call it between two sampling calls, never inside one."""

    def __init__(self, vae: Any) -> None:
        """vae: the host's VAE; refused unless it is a Wan 2.1 VAE whose encoder can be streamed exactly."""
        if refusal := why_not_wan(vae) or _why_not_encoder(vae):
            raise ValueError(refusal)
        self.vae = vae
        check_once(vae.first_stage_model, type(self), self._check)

    @torch.inference_mode()
    def __call__(
        self, pixels_FHWC: Tensor, past: EncoderPast | None = None, *, last: bool = False
    ) -> tuple[Tensor, EncoderPast]:
        """(latents [1, C, T, H, W] in the VAE's units on its device, float32; past for the next call).

        pixels: uint8 in 0..255 or floating point in [0, 1], all of a stream alike, any F. The first picture
        of a stream is a latent of its own, then every four; they come out two by two. last: nothing follows,
        so a single one comes out too; pictures that do not fill a latent are left out.
        """
        layers, waiting_FHWC = (None, pixels_FHWC[:0]) if past is None else (past.layers, past.waiting_FHWC)
        left_FHWC = torch.cat([waiting_FHWC, pixels_FHWC])
        self._load(left_FHWC)
        begun = layers is not None
        kept = KeptFrames(self.vae, layers or (None,) * LAYERS)
        size = (1, LATENT_CHANNELS, 0, *(length // SPACE_STRIDE for length in pixels_FHWC.shape[1:3]))
        pieces = [torch.empty(size, device=self.vae.device)]
        while count := _next(len(left_FHWC), not begun, last):
            pieces.append(self._piece(left_FHWC[:count], kept).float())
            left_FHWC, begun = left_FHWC[count:], True
        return torch.cat(pieces, 2), EncoderPast(tuple(kept) if begun else None, left_FHWC.clone())

    def _load(self, pixels_FHWC: Tensor) -> None:
        vae, (_, height, width, colours) = self.vae, pixels_FHWC.shape
        needed = vae.memory_used_encode((1, colours, GROUP, height, width), vae.vae_dtype)
        load_models([vae.patcher], memory_required=needed)

    def _piece(self, pixels_FHWC: Tensor, kept: KeptFrames) -> Tensor:
        """Latents [1, C, T, H, W] of a piece's pictures; what the layers keep is replaced."""
        vae, model = self.vae, self.vae.first_stage_model
        pixels_FHWC = to_device(pixels_FHWC, vae.device)
        if pixels_FHWC.dtype == torch.uint8:
            pixels_FHWC = pixels_FHWC.float() / 255
        x_BCFHW = vae.process_input(pixels_FHWC.movedim(-1, 0)[None]).to(vae.vae_dtype)
        out: list[Tensor] = []
        parts = x_BCFHW.split(AT_ONCE, 2)
        for number, part_BCFHW in enumerate(parts):
            final = number == len(parts) - 1
            moments = model.encoder(part_BCFHW, feat_cache=kept, feat_idx=[0], final=final)
            if moments is not None:
                out.append(moments)
        return model.conv1(torch.cat(out, 2)).chunk(2, dim=1)[0]

    def _check(self) -> None:
        """Raises RuntimeError unless small pictures give the same latents in pieces and as a whole."""
        small = (torch.sin(torch.arange(13 * 32 * 32 * 3) * 0.7).reshape(13, 32, 32, 3) + 1) / 2
        whole, past, parts = self.vae.encode(small.clone()), None, []
        for piece in small.split(5):
            latents, past = self(piece, past)
            parts.append(latents)
        parts.append(self(small[:0], past, last=True)[0])
        streamed = torch.cat(parts, 2).movedim(2, 0)
        refuse_other(streamed, whole.movedim(2, 0), self.vae, "encoder", "latents")


def _why_not_encoder(vae: Any) -> str | None:
    """A sentence if the host's encoder cannot be streamed, else None."""
    model = vae.first_stage_model
    lacking = [name for name in ("encoder", "conv1") if not hasattr(model, name)]
    if not lacking and "final" in inspect.signature(model.encoder.forward).parameters:
        return None
    return (
        f"Rivulet: the VAE's encoder ({type(model).__name__}) cannot be run picture by picture in this "
        f"ComfyUI{''.join(f', it has no {name}' for name in lacking)}; a video to begin with needs that. "
        f"Update ComfyUI, or begin with a single picture."
    )


def _next(pictures: int, start: bool, last: bool) -> int:
    """Pictures of the next piece: one at the start, then eight; four only if nothing follows."""
    if start:
        return min(pictures, 1)
    if pictures >= GROUP:
        return GROUP
    return TIME_STRIDE if last and pictures >= TIME_STRIDE else 0
