"""Begin a stream with a picture, the end of a video or of a take, or a video that is followed.

A picture is the first latent that is remembered and the first picture shown.

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
from ..model_patches.memory.policy import visible
from ..model_patches.stream.incoming import CROP, EXACT, FITS, STRETCH
from ..model_patches.stream.start import pieces
from ..model_patches.stream.state import StreamConfig
from ..model_patches.stream.state_file import about_of
from .host.block import BlockInMaking
from .host.decoder import first_latents, why_not_vae
from .host.incoming import refuse_unfit
from .host.stream import HostState, HostStream
from .run.kept import KIND, VERSION
from .run.snapshot_files import changed, snapshots, there
from .run.start_video import FollowVideo, GoOnFromTake, GoOnFromVideo
from .run.switch import run_again

StartType = io.Custom("RIVULET_START")
NO_TAKE = "none"
WHO = "Start From"
PICTURE, GO_ON, FOLLOW = "picture", "go on", "follow"
MODES = {
    PICTURE: "one image is the first picture of the video",
    GO_ON: "the video begins where another one ends: video, image (a batch), or take",
    FOLLOW: "video to video, the stream follows video or image (a batch) from its first picture to its last",
}


@dataclass(frozen=True, slots=True)
class Start:
    """A picture to begin with, before the size of the video is known."""

    image_BHWC: Tensor  # one picture of three channels, in [0, 1]
    fit: str  # one of FITS
    given, hidden = 1, 0  # latent frames before the first block; pictures of them that are not shown

    def begun(self, vae: Any, config: StreamConfig) -> dict[str, Any]:
        """What `Take.run` begins with."""
        if refusal := why_not_vae(vae):
            raise ValueError(refusal)
        pixels_BHWC = self.fitted(config.geometry)
        return {"given_BCTHW": first_latents(vae, pixels_BHWC), "ending_HWC": pixels_BHWC[0]}

    def fitted(self, geometry: Geometry) -> Tensor:
        """The picture [1, H, W, 3] at the size of the video."""
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
        return pixels_BCHW.clamp(0, 1).movedim(1, -1)


@torch.inference_mode()
def keep(stream: HostStream, state: HostState, latents_BCTHW: Tensor) -> HostState:
    """The state after latents that were not made but given, [B, C, T, H, W] in the VAE's units.

    Their keys and values are remembered from a pass at timestep 0 for each block's length of them, a shorter
    one first, as Self-Forcing (arXiv 2506.08009) takes its first frame in image-to-video; to be called before
    the first block. An error leaves `state` as it was.
    """
    config, count = stream.config, latents_BCTHW.shape[2]
    wanted = config.geometry.latent_shape(count, stream.batch)
    if tuple(latents_BCTHW.shape) != wanted or not count:
        raise ValueError(
            f"Rivulet: the latents to begin with are {list(latents_BCTHW.shape)}, the stream needs "
            f"{list(wanted)} with at least one frame; encode the picture at the video's size with Wan's VAE."
        )
    for piece_BCTHW in latents_BCTHW.split(pieces(count, config.block_frames), 2):
        state = _kept(stream, state, piece_BCTHW)
    return state


def _kept(stream: HostStream, state: HostState, latents_BCTHW: Tensor) -> HostState:
    """The state after one pass over these latents."""
    config, start, count = stream.config, state.start_frame, latents_BCTHW.shape[2]
    call = call_of(config.positions, start, count)
    draft = state.cache.begin(call)
    memories = visible(stream.policy, state.memory, call)
    making = BlockInMaking(stream, draft, state.block, start, count, memories)
    inside_BCTHW = stream.model.model.process_latent_in(latents_BCTHW)
    stream.sample(making, run_again, torch.zeros_like(inside_BCTHW), latents_BCTHW=inside_BCTHW)
    making.refuse_nan(latents_BCTHW, *making.kept)
    memory, cache = stream.leave(making, state.memory, draft.commit(call.kept + call.own), start + count)
    tail_BCTHW = torch.cat([state.tail_BCTHW.to(latents_BCTHW), latents_BCTHW], 2)
    return replace(
        state,
        start_frame=start + count,
        cache=cache,
        memory=memory,
        tail_BCTHW=tail_BCTHW[:, :, -stream.tail_frames :].clone(),
    )


class RivuletStartFrom(io.ComfyNode):
    """A picture, a video or an earlier take to begin with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletStartFrom",
            display_name="Start From",
            category="rivulet",
            description="Begins a stream with a picture, where a video or an earlier take ends, or follows a "
            "video.",
            search_aliases=["image to video", "i2v", "first frame", "extend video", "video to video", "v2v"],
            inputs=[
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Any size, no transparency. One for the mode picture; a batch for the others, "
                    "each of which is one picture of the video.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=CROP,
                    tooltip="What happens to pictures of another size. "
                    + " ".join(f"{name}: {what}." for name, what in FITS.items()),
                ),
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip="Of any length, size and rate; read piece by piece. At the stream's fps: of "
                    "every moment its nearest picture is taken.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=PICTURE,
                    optional=True,
                    tooltip=" ".join(f"{name}: {what}." for name, what in MODES.items()),
                ),
                io.Float.Input(
                    "strength",
                    default=0.85,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="For follow, the share of noise put over the video, down to the model's next "
                    "noise level: less keeps more of the video, 1 keeps nothing.",
                ),
                io.Int.Input(
                    "context",
                    default=0,
                    min=0,
                    max=512,
                    optional=True,
                    advanced=True,
                    tooltip="For go on, the last pictures of the video that the stream looks back on; 0: as "
                    "many as it can.",
                ),
                io.Combo.Input(
                    "take",
                    options=[NO_TAKE, *snapshots()],
                    default=NO_TAKE,
                    optional=True,
                    tooltip="For go on, the snapshot of an earlier take of this size; a new stream begins "
                    "where it ended, with any model, seed and prompt. Press R after a run to see new ones.",
                ),
            ],
            outputs=[StartType.Output(display_name="start", tooltip="For Stream Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, take: str = NO_TAKE, **_: Any) -> str:
        """Changes when the chosen snapshot does."""
        return NO_TAKE if take == NO_TAKE else changed(WHO, take)

    @classmethod
    def execute(
        cls,
        image: Tensor | None = None,
        fit: str = CROP,
        video: Any = None,
        mode: str = PICTURE,
        strength: float = 0.85,
        context: int = 0,
        take: str = NO_TAKE,
    ) -> io.NodeOutput:
        """Returns what to begin with, checked; it is read when the stream's size and VAE are known."""
        found = {"image": image, "video": video, "take": None if take == NO_TAKE else take}
        name, given = _one_of(mode, {key: value for key, value in found.items() if value is not None})
        if mode == PICTURE:
            return io.NodeOutput(Start(one_picture(given), fit))
        if name == "image":
            refuse_unfit(given)
        if mode == FOLLOW:
            return io.NodeOutput(FollowVideo(given, fit, strength))
        if name == "take":
            path = there(WHO, given)
            about_of(path, KIND, VERSION)
            return io.NodeOutput(GoOnFromTake(path))
        return io.NodeOutput(GoOnFromVideo(given, fit, context))


TAKEN = {PICTURE: ("image",), GO_ON: ("video", "image", "take"), FOLLOW: ("video", "image")}


def _one_of(mode: str, given: dict[str, Any]) -> tuple[str, Any]:
    """(name, value) of the one thing the mode begins with; refused where it is missing or not alone."""
    if list(given) in [[name] for name in TAKEN[mode]]:
        return next(iter(given.items()))
    fitting = [name for name, taken in TAKEN.items() if list(given) in [[each] for each in taken]]
    step = f", or set mode to {' or '.join(fitting)}" if fitting else ""
    raise ValueError(
        f"{WHO}: mode {mode} begins with {' or '.join(TAKEN[mode])}, one of them, and got "
        f"{' and '.join(given) or 'nothing'}; connect {TAKEN[mode][0]} alone{step}."
    )


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
