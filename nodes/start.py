"""Begin a stream with a picture: it is the first latent that is remembered and the first picture shown.

B batch, C latent channels, T latent frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..model_patches.cache.format import call_of
from ..model_patches.geometry import Geometry
from ..model_patches.memory.policy import seen
from .host import HostState, HostStream
from .host_block import BlockInMaking
from .host_vae import why_not_vae
from .switch import run_again

StartType = io.Custom("RIVULET_START")
CROP, STRETCH, EXACT = "crop", "stretch", "refuse"
FITS = {
    CROP: "scaled until it covers the video, the middle is taken",
    STRETCH: "scaled to the video's width and height, whatever that does to its shape",
    EXACT: "another size than the video's is refused",
}


@dataclass(frozen=True, slots=True)
class Start:
    """A picture to begin with, before the size of the video is known."""

    image_BHWC: Tensor  # one picture of three channels, in [0, 1]
    fit: str  # one of FITS
    given = 1  # latent frames before the first block

    def latents(self, vae: Any, geometry: Geometry) -> Tensor:
        """The first latent [1, C, 1, H, W] of a video of this size, in the VAE's units."""
        if refusal := why_not_vae(vae):
            raise ValueError(refusal)
        height, width = self.image_BHWC.shape[1:3]
        wanted = (geometry.width, geometry.height)
        if self.fit == EXACT and (width, height) != wanted:
            raise ValueError(
                f"Start From: the picture is {width}x{height} and the video {wanted[0]}x{wanted[1]}; make "
                f"them equal, or set fit to {CROP} or {STRETCH}."
            )
        pixels_BCHW = comfy.utils.common_upscale(
            self.image_BHWC.movedim(-1, 1), *wanted, "bicubic", "center" if self.fit == CROP else "disabled"
        )
        return vae.encode(pixels_BCHW.clamp(0, 1).movedim(1, -1))


@torch.inference_mode()
def keep(stream: HostStream, state: HostState, latents_BCTHW: Tensor) -> HostState:
    """The state after latents that were not made but given, [B, C, T, H, W] in the VAE's units.

    Their keys and values are remembered from one pass at timestep 0, as Self-Forcing (arXiv 2506.08009) takes
    its first frame in image-to-video; the blocks that follow begin after them. An error leaves `state` as it
    was.
    """
    config, start, count = stream.config, state.start_frame, latents_BCTHW.shape[2]
    wanted = config.geometry.latent_shape(count, stream.batch)
    if tuple(latents_BCTHW.shape) != wanted or not count:
        raise ValueError(
            f"Rivulet: the latents to begin with are {list(latents_BCTHW.shape)}, the stream needs "
            f"{list(wanted)} with at least one frame; encode the picture at the video's size with Wan's VAE."
        )
    call = call_of(config.positions, start, count)
    draft = state.cache.begin(call)
    memories = seen(stream.policy, state.memory, call)
    making = BlockInMaking(stream, draft, state.block, start, count, memories)
    inside_BCTHW = stream.model.model.process_latent_in(latents_BCTHW)
    stream.sample(making, run_again, torch.zeros_like(inside_BCTHW), latents_BCTHW=inside_BCTHW)
    making.refuse_nan(latents_BCTHW)
    memory, cache = stream.leave(state.memory, draft.commit(call.kept + call.own), start + count)
    tail_BCTHW = torch.cat([state.tail_BCTHW.to(latents_BCTHW), latents_BCTHW], 2)
    return replace(
        state,
        start_frame=start + count,
        cache=cache,
        memory=memory,
        tail_BCTHW=tail_BCTHW[:, :, -stream.tail_frames :].clone(),
    )


class RivuletStartFrom(io.ComfyNode):
    """A picture to begin with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletStartFrom",
            display_name="Start From",
            category="rivulet",
            description="Begins a stream with a picture: it is the first of the video, and the model goes on "
            "from it.",
            search_aliases=["image to video", "i2v", "first frame", "init image"],
            inputs=[
                io.Image.Input("image", tooltip="One picture without transparency, any size."),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=CROP,
                    tooltip="What happens to a picture of another size. "
                    + " ".join(f"{name}: {what}." for name, what in FITS.items()),
                ),
            ],
            outputs=[StartType.Output(display_name="start", tooltip="For Stream Video.")],
        )

    @classmethod
    def execute(cls, image: Tensor, fit: str) -> io.NodeOutput:
        """Returns the picture, checked; it is encoded when the stream's size and VAE are known."""
        return io.NodeOutput(Start(one_picture(image), fit))


def one_picture(image_BHWC: Tensor) -> Tensor:
    """The picture [1, H, W, 3]; batches, transparency and other channels are refused in a sentence."""
    if image_BHWC.ndim != 4 or image_BHWC.shape[-1] not in (3, 4) or not image_BHWC.numel():
        raise ValueError(
            f"Start From: image is {list(image_BHWC.shape)}; one colour picture [1, height, width, 3] is "
            f"needed. Load it with Load Image."
        )
    if len(image_BHWC) != 1:
        raise ValueError(
            f"Start From: image holds {len(image_BHWC)} pictures, a stream begins with one; choose one with "
            f"ImageFromBatch."
        )
    if image_BHWC.shape[-1] == 4 and not bool((image_BHWC[..., 3] >= 1).all()):
        raise ValueError(
            "Start From: image has transparent parts, which a video cannot show; lay it on a ground first, "
            "for instance with ImageCompositeMasked."
        )
    picture_BHWC = image_BHWC[..., :3].float()
    if not bool(picture_BHWC.isfinite().all()):
        raise ValueError(
            "Start From: image holds NaN or infinite numbers; look at the node that made it, or load another."
        )
    return picture_BHWC
