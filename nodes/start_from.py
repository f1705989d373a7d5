"""The node that begins a stream with a picture, at the end of a video or take, or with a video to follow.

B batch, H/W of the picture.
"""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..model_patches.stream.incoming import CROP, FITS
from ..model_patches.takes.folder import TakeFolder
from .host.incoming import refuse_unfit
from .host.inputs import GIVES_NOTHING
from .run.beginnings import WHO, Following, FromPicture, FromTake, FromVideo, newest_ending
from .run.take_files import BEGUN_WITH, find_take, list_names

StartType = io.Custom("RIVULET_START")
NO_TAKE = "none"
PICTURE, GO_ON, FOLLOW = "picture", "go on", "follow"
MODES = {
    PICTURE: "one image is the first picture of the video",
    GO_ON: "the video begins where another one ends: video, image (a batch), or take",
    FOLLOW: "video to video, the stream follows video or image (a batch) from its first picture to its last",
}


class RivuletStartFrom(io.ComfyNode):
    """A picture, a video or an earlier take to begin with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletStartFrom",
            display_name="Start From",
            category="Rivulet",
            description="Begins a stream with a picture, at the end of a video or an earlier take, or "
            "follows a video.",
            search_aliases=[
                *("image to video", "i2v", "first frame", "extend video", "video to video", "v2v"),
                *("图生视频", "首帧", "续写"),
            ],
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
                    tooltip="Any length, size and rate; read piece by piece. At each picture of the stream, "
                    "the nearest one in time is used.",
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
                    tooltip="For follow, the share of noise added to the video, rounded down to one of the "
                    "model's noise levels: less keeps more of the video, 1 keeps nothing.",
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
                    options=[NO_TAKE, *list_names()],
                    default=NO_TAKE,
                    optional=True,
                    tooltip="For go on, an earlier take of the same size; a new stream begins where its "
                    "newest snapshot is, with any model, seed and prompt. Press R after a run to see new "
                    "ones.",
                ),
                io.Float.Input(
                    "motion",
                    default=0.0,
                    min=0.0,
                    max=0.9,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="For follow, how much less strength a block gets whose pictures move fast, so "
                    "that what moves is followed; 0.1 as in StreamDiffusionV2. Strength is then not rounded. "
                    "0: every block alike.",
                ),
            ],
            outputs=[StartType.Output(display_name="start", tooltip="For Stream Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, take: str = NO_TAKE, **_: Any) -> str:
        """Changes when the chosen take does."""
        return NO_TAKE if take == NO_TAKE else BEGUN_WITH.stamp(WHO, take)

    @classmethod
    def validate_inputs(cls, take: str = NO_TAKE) -> bool | str:
        """Whether there is such a take; values of earlier releases name a snapshot of it."""
        try:
            return take == NO_TAKE or bool(find_take(WHO, take))
        except ValueError as why:
            return str(why)

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
        motion: float = 0.0,
    ) -> io.NodeOutput:
        """Returns what to begin with, checked; it is read when the stream's size and VAE are known."""
        sources = {"image": image, "video": video, "take": None if take == NO_TAKE else take}
        sources = {name: value for name, value in sources.items() if value is not None}
        name, source = _single_source(mode, sources)
        if mode == PICTURE:
            return io.NodeOutput(FromPicture(image_BHWC=one_picture(source), fit=fit))
        if name == "image":
            refuse_unfit(source)
        if mode == FOLLOW:
            return io.NodeOutput(Following(source=source, fit=fit, strength=strength, motion=motion))
        if name == "take":
            video = find_take(WHO, source)
            newest_ending(TakeFolder(video))
            return io.NodeOutput(FromTake(video=video))
        return io.NodeOutput(FromVideo(source=source, fit=fit, context=context))


SOURCES = {PICTURE: ("image",), GO_ON: ("video", "image", "take"), FOLLOW: ("video", "image")}


def _single_source(mode: str, sources: dict[str, Any]) -> tuple[str, Any]:
    """(name, value) of the one thing the mode begins with; refused where it is missing or not alone."""
    if list(sources) in [[name] for name in SOURCES[mode]]:
        return next(iter(sources.items()))
    modes = [name for name, names in SOURCES.items() if list(sources) in [[each] for each in names]]
    step = f", or set mode to {' or '.join(modes)}" if modes else ""
    raise ValueError(
        f"{WHO}: mode {mode} begins with {' or '.join(SOURCES[mode])}, one of them, and got "
        f"{' and '.join(sources) or f'nothing ({GIVES_NOTHING})'}; connect {SOURCES[mode][0]} alone{step}."
    )


def one_picture(image_BHWC: Tensor, what: str = f"{WHO}: image") -> Tensor:
    """The picture [1, H, W, 3]; batches, transparency and other channels are refused in a sentence.

    what: the node and its input, which the sentence begins with.
    """
    if image_BHWC.ndim != 4 or image_BHWC.shape[-1] not in (3, 4) or not image_BHWC.numel():
        raise ValueError(
            f"{what} is {list(image_BHWC.shape)}; one colour picture [1, height, width, 3] is "
            f"needed. Load it with Load Image."
        )
    if len(image_BHWC) != 1:
        raise ValueError(
            f"{what} holds {len(image_BHWC)} pictures, and one is needed; choose one with ImageFromBatch."
        )
    if image_BHWC.shape[-1] == 4 and not bool((image_BHWC[..., 3] >= 1).all()):
        raise ValueError(
            f"{what} has transparent parts, which a video cannot show; put it on a background "
            "first, for instance with ImageCompositeMasked."
        )
    picture_BHWC = image_BHWC[..., :3].float()
    if not bool(picture_BHWC.isfinite().all()):
        raise ValueError(
            f"{what} holds NaN or infinite numbers; look at the node that made it, or load another."
        )
    return picture_BHWC
