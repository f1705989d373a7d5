"""The host's tiny VAE (TAEHV) as a stream: the pictures of its own decode of the whole, piece by piece.

C channels, F pixel frames, T latent frames, H/W of the picture or of the latent grid. Latents come in the
units of Wan's own VAE, as the host hands them from node to node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...model_patches.geometry import LATENT_CHANNELS
from ...model_patches.vae.decoder import MAX_LATENTS, VaeBuffers, to_levels
from ...model_patches.vae.load import FAMILY, units_by_name
from ...model_patches.vae.reach import reach_of_tiny
from ...model_patches.vae.tiny import decode_pictures, has_memory
from ...model_patches.vae.tiny_cost import TinyCost
from ...model_patches.vae.wan import SPACE_STRIDE, in_model_units, in_vae_units
from .file import file_of
from .loaded import load_models
from .once import check_once
from .same import refuse_other
from .vae import NEEDS, refuse_foreign

TINY_NEEDS = (
    "first_stage_model.process_in",
    "first_stage_model.process_out",
    "first_stage_model.latent_format",
)


class HostTinyDecoder:
    """Decodes one stream through a tiny VAE of the host. Call it between two sampling calls only."""

    def __init__(self, vae: Any) -> None:
        """vae: the host's VAE; refused unless it is a TAEHV for Wan 2.1's latents."""
        if refusal := why_not_tiny(vae):
            raise ValueError(refusal)
        self.vae, self.layers = vae, list(vae.first_stage_model.decoder)
        check_once(vae.first_stage_model, type(self), self._check)

    def refuse_foreign(self, past: VaeBuffers | None) -> None:
        """Raises ValueError for the past of another kind of decoder."""
        refuse_foreign(past, sum(has_memory(layer) for layer in self.layers))

    in_pairs, upscale = False, 1

    @property
    def forgets_after(self) -> int:
        """Latents that its past hangs on."""
        return reach_of_tiny(self.layers)

    @torch.inference_mode()
    def decode(
        self,
        latents_BCTHW: Tensor,
        past: VaeBuffers | None = None,
        *,
        last: bool = False,
        exact: bool = False,
    ) -> tuple[Tensor, VaeBuffers]:
        """(pixels [F, H, W, 3] on the VAE's device, past for the next call).

        pixels: uint8; exact: float32 in [0, 1].

        latents: one stream [1, C, T, H, W] in the units of Wan's VAE, any T. last changes nothing: no latent
        waits for another.
        """
        vae, (height, width) = self.vae, latents_BCTHW.shape[3:]
        needed = tiny_cost(vae).peak(MAX_LATENTS, height * width) * vae.vae_dtype.itemsize
        load_models([vae.patcher], memory_required=needed)
        # a past that has no layers is that of a stream without a latent
        kept: Any = past.layers if past is not None and past.layers else None
        if kept is not None:
            kept = [each.to(vae.device, vae.vae_dtype) for each in kept]
        size = (0, height * SPACE_STRIDE, width * SPACE_STRIDE, 3)
        pieces = [torch.empty(size, dtype=torch.float32 if exact else torch.uint8, device=vae.device)]
        for piece_BCTHW in latents_BCTHW.split(MAX_LATENTS, 2) if latents_BCTHW.shape[2] else ():
            pixels_FHWC, kept = self._piece(piece_BCTHW, kept)
            pieces.append(pixels_FHWC if exact else to_levels(pixels_FHWC))
        return torch.cat(pieces), VaeBuffers(tuple(kept or ()))

    def _piece(self, piece_BCTHW: Tensor, kept: list[Tensor | None] | None) -> tuple[Tensor, list[Any]]:
        """(pixels [F, H, W, 3] in [0, 1], float32; what the layers keep, the list given is used up)."""
        vae = self.vae
        x = to_tiny_units(vae, piece_BCTHW).to(vae.device, vae.vae_dtype)
        pixels_BCFHW, after = decode_pictures(self.layers, x, kept)
        return pixels_BCFHW[0].movedim(0, -1).float().clamp_(0, 1), list(after)

    @torch.inference_mode()
    def _check(self) -> None:
        """Raises RuntimeError unless five small latents give the same pictures as the host's own decode."""
        vae = self.vae
        small = torch.sin(torch.arange(16 * 5 * 4 * 4) * 0.7).reshape(1, 16, 5, 4, 4)
        whole = vae.decode(vae.first_stage_model.process_out(to_tiny_units(vae, small)))[0].clamp(0, 1)
        first, past = self.decode(small[:, :, :2], exact=True)
        streamed = torch.cat([first, self.decode(small[:, :, 2:], past, exact=True)[0]])
        refuse_other(streamed, whole, vae, "decoder", "pictures")


def is_tiny(vae: Any) -> bool:
    """Whether the host's VAE is laid out as the TAEHV family is."""
    decoder = getattr(getattr(vae, "first_stage_model", None), "decoder", None)
    return isinstance(decoder, nn.Sequential) and any(has_memory(layer) for layer in decoder)


def why_not_tiny(vae: Any) -> str | None:
    """A sentence if a tiny VAE of the host is for other latents than Wan 2.1's, else None."""
    lacking = [name for name in (*NEEDS, *TINY_NEEDS) if not _has(vae, name.split("."))]
    if lacking:
        return (
            f"Rivulet: the tiny VAE has no {', '.join(lacking)}; ComfyUI has changed. Update Rivulet, or "
            f"take the VAE of Wan 2.1."
        )
    channels = vae.latent_channels
    if channels != LATENT_CHANNELS:
        return (
            f"Rivulet: the VAE is a tiny decoder for {FAMILY.get(channels, 'another model')} ({channels} "
            f"latent channels); a stream has Wan 2.1's {LATENT_CHANNELS}. Take lighttaew2_1 or taew2_1, or "
            f"the VAE of Wan 2.1."
        )
    if vae.first_stage_model.latent_format is not None and _units_by_name(vae) is None:
        return (
            "Rivulet: ComfyUI takes this tiny decoder for HunyuanVideo's, as it does with every one in "
            "float16. If it is taew2_1, give the file that name, put it into models/vae and load it with "
            "Load VAE; or take lighttaew2_1, which ComfyUI knows."
        )
    return None


def to_tiny_units(vae: Any, latents_BCTHW: Tensor) -> Tensor:
    """Latents in what the tiny decoder's layers were trained on, from the units of Wan's VAE."""
    return latents_BCTHW if _takes_vae_units(vae) else in_model_units(latents_BCTHW)


def encode(vae: Any, pixels_BHWC: Tensor) -> Tensor:
    """Latents [1, C, T, H/8, W/8] of pictures in [0, 1], in the units of Wan's VAE."""
    latents_BCTHW = vae.first_stage_model.process_in(vae.encode(pixels_BHWC))
    return latents_BCTHW if _takes_vae_units(vae) else in_vae_units(latents_BCTHW)


def tiny_cost(vae: Any) -> TinyCost:
    """What decoding with the host's tiny VAE costs, whatever its widths."""
    model = vae.first_stage_model
    widths = tuple(model.decoder[index].out_channels for index in (1, 8, 14, 20))
    return TinyCost(widths, sum(weight.numel() for weight in model.encoder.parameters()))


def _takes_vae_units(vae: Any) -> bool:
    """As the file's name says; the host decodes one whose name says nothing in the VAE's units."""
    vae_units = _units_by_name(vae)
    return True if vae_units is None else vae_units


def _units_by_name(vae: Any) -> bool | None:
    """Whether the file's name says VAE units; None if the name or the file is unknown."""
    path = file_of(vae.patcher)
    try:
        return None if path is None else units_by_name(path)
    except ValueError:
        return None


def _has(part: Any, names: Sequence[str]) -> bool:
    for name in names:
        if not hasattr(part, name):
            return False
        part = getattr(part, name)
    return True
