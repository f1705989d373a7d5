"""The host's Wan VAE as a stream: exactly the pictures of its own decode of the whole, piece by piece.

C channels, F pixel frames, T latent frames, H/W of the picture or of the latent grid. The host's decoder
joins what it keeps only when latents come as one, then two by two; an odd latent waits for the next piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...model_patches.checkpoints import wan22
from ...model_patches.geometry import LATENT_CHANNELS
from ...model_patches.vae.cost import WanCost
from ...model_patches.vae.decoder import VaeBuffers, to_levels
from ...model_patches.vae.load import NEEDED, why_not_head
from ...model_patches.vae.reach import reach_of_wan
from ...model_patches.vae.wan import SPACE_STRIDE, UPSCALES, unpacked
from .loaded import load_models
from .once import check_once
from .same import refuse_other

NEEDS = (
    "first_stage_model",
    "patcher",
    "encode",
    "memory_used_decode",
    "process_output",
    "vae_dtype",
    "device",
    "output_device",
)
PIECE_LATENTS = 2  # most that the host's decoder is given at once
LAYERS = 64  # slots for what causal layers keep, more than any Wan 2.1 decoder has


class HostDecoder:
    """Decodes one stream through a VAE of the host. Call it between two sampling calls, never inside one."""

    def __init__(self, vae: Any) -> None:
        """vae: the host's VAE; refused unless it is a Wan 2.1 VAE whose decoder can be streamed exactly."""
        if refusal := why_not_wan(vae):
            raise ValueError(refusal)
        self.vae, self.upscale = vae, upscale_of(vae)
        check_once(vae.first_stage_model, type(self), self._check)

    def refuse_foreign(self, past: VaeBuffers | None) -> None:
        """Raises ValueError for the past of another kind of decoder."""
        refuse_foreign(past, LAYERS)

    in_pairs = True

    @property
    def forgets_after(self) -> int:
        """Latents that its past hangs on: one more than the layers reach over may wait for its pair."""
        return reach_of_wan(self.vae.first_stage_model.decoder) + PIECE_LATENTS - 1

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

        latents: one stream [1, C, T, H, W] in the VAE's units, any T. last: nothing follows, so a latent that
        is left over is decoded without its pair.
        """
        vae = self.vae
        if past is not None and past.pending is not None:
            # that of a snapshot lies beside the card
            latents_BCTHW = torch.cat([past.pending.to(latents_BCTHW), latents_BCTHW], 2)
        height, width = latents_BCTHW.shape[3:]
        needed = wan_cost(vae).peak(PIECE_LATENTS, height * width) * vae.vae_dtype.itemsize
        load_models([vae.patcher], memory_required=needed)
        begun = past is not None and len(past.layers) > 0
        kept = KeptFrames(vae, past.layers if past is not None and begun else (None,) * LAYERS)
        stride = SPACE_STRIDE * self.upscale
        size = (0, height * stride, width * stride, 3)
        pieces = [torch.empty(size, dtype=torch.float32 if exact else torch.uint8, device=vae.device)]
        while count := _next(latents_BCTHW.shape[2], not begun, last):
            piece_BCTHW, latents_BCTHW = latents_BCTHW[:, :, :count], latents_BCTHW[:, :, count:]
            pieces.append(self._piece(piece_BCTHW, kept, exact))
            begun = True
        held = latents_BCTHW.clone() if latents_BCTHW.shape[2] else None
        return torch.cat(pieces), VaeBuffers(tuple(kept) if begun else (), held)

    def _piece(self, piece_BCTHW: Tensor, kept: KeptFrames, exact: bool) -> Tensor:
        """The piece's pixels [F, H, W, 3]; what the layers keep is replaced."""
        vae, model = self.vae, self.vae.first_stage_model
        x = model.conv2(piece_BCTHW.to(vae.device, vae.vae_dtype))
        made = model.decoder(x, feat_cache=kept, feat_idx=[0])
        # other packs' loaders bring layers of earlier hosts, which give the whole piece at once
        made = [made] if isinstance(made, Tensor) else list(made)
        # one after the other: in float32 those of a narrow decoder take more than its layers did
        return torch.cat([self._shown(made, exact) for _ in range(len(made))])

    def _shown(self, made: list[Tensor], exact: bool) -> Tensor:
        """The pixels [F, H, W, 3] of the first of what the decoder made, which is taken off the list."""
        pixels_BCFHW = self.vae.process_output(made.pop(0).float())
        pixels_FHWC = unpacked(pixels_BCFHW, self.upscale)[0].movedim(0, -1)
        return pixels_FHWC if exact else to_levels(pixels_FHWC)

    @torch.inference_mode()
    def _check(self) -> None:
        """Raises RuntimeError unless five small latents give the same pictures in pieces and as a whole."""
        small = torch.sin(torch.arange(16 * 5 * 4 * 4) * 0.7).reshape(1, 16, 5, 4, 4)
        whole, past, parts = self._as_shown(self.vae.decode(small.clone())), None, []
        for piece in small.split(2, 2):
            pixels, past = self.decode(piece, past, exact=True)
            parts.append(pixels)
        parts.append(self.decode(small[:, :, :0], past, last=True, exact=True)[0])
        refuse_other(torch.cat(parts), whole, self.vae, "decoder", "pictures")

    def _as_shown(self, whole: Tensor) -> Tensor:
        """What the VAE decodes, as pictures [F, H, W, 3].

        The host gives [1, F, H, W, C] and leaves a head of 12 channels as they are; VAEs of other packs may
        give [F, H, W, C], and shuffle.
        """
        whole_FHWC = whole.flatten(0, -4)
        if whole_FHWC.shape[-1] == 3:
            return whole_FHWC
        return unpacked(whole_FHWC.movedim(-1, 0)[None], self.upscale)[0].movedim(0, -1)


class KeptFrames(list[Any]):
    """What the host's causal layers keep, in their order; each is replaced as the layers go through.

    Frames are copied out of what they are a part of, so that it is freed. Those given stay as they are.
    """

    def __init__(self, vae: Any, frames: Sequence[Any]) -> None:
        """frames: of a past, on any device."""
        there = {"device": vae.device, "dtype": vae.vae_dtype}
        super().__init__(each.to(**there) if isinstance(each, Tensor) else each for each in frames)

    def __setitem__(self, index: Any, part: Any) -> None:
        super().__setitem__(index, without_view(part))


def wan_cost(vae: Any) -> WanCost:
    """What decoding with the host's Wan VAE costs, whatever its width."""
    dim = vae.first_stage_model.decoder.conv1.out_channels // 4
    return WanCost(dim, in_pairs=True, upscale=upscale_of(vae))


def upscale_of(vae: Any) -> int:
    """Times of 8 pixels that a latent's place measures in the pictures of the host's VAE; 1 by default."""
    return UPSCALES.get(_head_channels(vae), 1)


def _head_channels(vae: Any) -> int:
    """Channels in which the decoder ends; 3 where it has no such layer, as tiny ones have none."""
    head = getattr(getattr(getattr(vae, "first_stage_model", None), "decoder", None), "head", None)
    return getattr(head[-1], "out_channels", 3) if isinstance(head, nn.Sequential) and head else 3


def why_not_wan(vae: Any) -> str | None:
    """A sentence if the host's VAE lacks what streaming relies on, else None."""
    if vae is None:
        return (
            "Rivulet: the VAE is missing, the loader found none in its file. Put wan_2.1_vae.safetensors "
            "into models/vae and connect Load VAE."
        )
    lacking = [name for name in NEEDS if not hasattr(vae, name)]
    model, channels = getattr(vae, "first_stage_model", None), getattr(vae, "latent_channels", "unknown")
    lacking += [f"first_stage_model.{name}" for name in ("conv2", "decoder") if not hasattr(model, name)]
    if channels == wan22.CHANNELS_5B:
        return f"Rivulet: the VAE is {wan22.VAE_5B}; {NEEDED}."
    if lacking or channels != LATENT_CHANNELS:
        return (
            f"Rivulet: the VAE is a {type(model).__name__} with {channels} channels"
            f"{''.join(f', without {name}' for name in lacking)}; {NEEDED}; or a tiny decoder for it, "
            f"lighttaew2_1 or taew2_1. Update Rivulet if this is one."
        )
    if (head := _head_channels(vae)) not in UPSCALES:
        return f"Rivulet: the VAE {why_not_head(head)}."
    return None


def refuse_foreign(past: VaeBuffers | None, layers: int) -> None:
    """Raises ValueError unless this past has the state of so many layers."""
    if past is not None and past.layers and len(past.layers) != layers:
        raise ValueError(
            f"Resume Stream: the take was decoded with another kind of VAE (with {len(past.layers)} "
            f"layer states where this one has {layers}), so a seam would show; connect the VAE it was made "
            f"with."
        )


def _next(latents: int, start: bool, last: bool) -> int:
    """Latents of the next piece: one at the start, then two; a single one only if it is the stream's last."""
    if start:
        return min(latents, 1)
    return PIECE_LATENTS if latents >= PIECE_LATENTS else latents if last else 0


def without_view(part: Any) -> Any:
    """A copy where the tensor is a view of a larger one, so that the larger one is freed."""
    if not isinstance(part, Tensor) or part.untyped_storage().nbytes() == part.nbytes:
        return part
    return part.clone()
