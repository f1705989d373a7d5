"""The inputs of Stream Video. Saved workflows hold values by their places: new ones come last."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..model_patches.takes.keeper import EVERY_SECONDS
from ..model_patches.writer.encoding import DEFAULT_CRF, ENCODERS, SMALL_SIDE, X264
from .host.inputs import fps_input, height_input, seconds_input, seed_input, width_input
from .host.recipe import block_input, cfg_input, preset_input
from .prompts import PromptsType
from .run.take import EARLY, WHEN
from .small_cache import CacheType
from .start_from import StartType


def stream_inputs() -> list[io.Input]:
    """All inputs in the order of the node."""
    return [*_frame(), *_shown(), *_kept(), *_snapshots(), *_long(), *_parts(), *_coded()]


def _frame() -> list[io.Input]:
    """What every video has."""
    return [
        io.Model.Input("model", tooltip="Wan 2.1 text to video, causal weights; or the Pocket Model."),
        io.Vae.Input(
            "vae",
            tooltip="The VAE of Wan 2.1; one whose decoder draws twice its size (upscale2x), and so the "
            "video; lighttaew2_1 or taew2_1, tiny decoders; or the Pocket Model's.",
        ),
        width_input(
            "Of the stream, in pixels; a VAE that draws twice the size makes the video twice as wide."
        ),
        height_input(
            "Of the stream, in pixels; a VAE that draws twice the size makes the video twice as high."
        ),
        seconds_input(
            "seconds",
            10.0,
            0.0,
            "Length of the video in seconds, rounded up to whole blocks. 0: without end, until you stop it.",
        ),
        fps_input(),
        seed_input("With the same seed, a shorter take is the beginning of a longer one."),
        preset_input("Which latent frames a block sees, and at which positions."),
        block_input(
            "Latent frames per block, as in the checkpoint's training: 1 or 3. 0: the model's, else 3."
        ),
        cfg_input(
            "Guidance strength, no unit; 1 means none and is twice as fast. 0: the model's, else 1.",
            advanced=True,
        ),
        io.String.Input(
            "filename_prefix",
            default="rivulet/stream",
            tooltip="Folder and beginning of the file's name, in ComfyUI's output folder; "
            "%date:yyyy-MM-dd% and %Node.widget% are filled in.",
        ),
    ]


def _shown() -> list[io.Input]:
    """What is to be seen, and how it begins."""
    return [
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip="One prompt for the whole video; or connect prompts instead.",
        ),
        PromptsType.Input(
            "prompts",
            optional=True,
            tooltip="Prompts over time; more of them can be typed while the stream runs.",
        ),
        io.Conditioning.Input("negative", optional=True, tooltip="Needed if cfg is not 1."),
        io.Sigmas.Input(
            "sigmas",
            optional=True,
            tooltip="Noise levels of each block, falling; usually four.",
        ),
        StartType.Input(
            "start",
            optional=True,
            tooltip="A picture, video or take to begin with (Start From), or an earlier take to go "
            "on with in the same file, bit for bit (Resume Stream).",
        ),
    ]


def _kept() -> list[io.Input]:
    """What a take keeps: snapshots beside the video, and frames on the card."""
    return [
        io.Combo.Input(
            "snapshot",
            options=list(WHEN),
            default=EARLY,
            optional=True,
            advanced=True,
            tooltip="Snapshots are taken while the video is made, for Resume Stream and Redo; which "
            "of them stay afterwards. " + "; ".join(f"{name}: {what}" for name, what in WHEN.items()) + ".",
        ),
        CacheType.Input(
            "cache",
            optional=True,
            tooltip="From Small Cache: fewer bytes for the frames that the stream looks back on.",
        ),
        io.Boolean.Input(
            "shrink_cache",
            default=False,
            optional=True,
            advanced=True,
            tooltip="What a full card may do where nothing else helps. On: the frames that the "
            "stream looks back on are stored in int8 from there, in half their bytes, and "
            "the video goes on a little different. Off: the stream stops and keeps what it "
            "has. Only without Small Cache.",
        ),
    ]


def _snapshots() -> list[io.Input]:
    """How many snapshots there are."""
    return [
        io.Float.Input(
            "snapshot_seconds",
            default=EVERY_SECONDS,
            min=1.0,
            max=3600.0,
            step=1.0,
            optional=True,
            advanced=True,
            tooltip="Seconds of video between two snapshots; more where writing them would keep the "
            "disk too busy.",
        ),
        io.Float.Input(
            "snapshot_gb",
            default=4.0,
            min=0.1,
            max=10_000.0,
            step=1.0,
            optional=True,
            advanced=True,
            tooltip="Disk space for the snapshots of this video, in gigabytes: older ones are "
            "thinned out, the newest three stay in any case.",
        ),
    ]


def _long() -> list[io.Input]:
    """What a run of hours does."""
    return [
        io.Boolean.Input(
            "stop_on_drift",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Stop and keep the video when its picture stands still or burns out. Off: that "
            "is told, and the video goes on.",
        ),
        io.Float.Input(
            "let_others_in",
            default=0.0,
            min=0.0,
            max=86400.0,
            step=1.0,
            optional=True,
            advanced=True,
            tooltip="After so many seconds, whenever other jobs wait in the queue, the video lets "
            "them in and goes on behind them. 0: only when asked in the preview.",
        ),
    ]


def _parts() -> list[io.Input]:
    """When another file begins."""
    return [
        io.Float.Input(
            "part_hours",
            default=0.0,
            min=0.0,
            max=1000.0,
            step=0.5,
            optional=True,
            advanced=True,
            tooltip="Another file begins after so many hours of video, and the parts stay apart. "
            "0: one file.",
        ),
        io.Float.Input(
            "part_gigabytes",
            default=0.0,
            min=0.0,
            max=10_000.0,
            step=0.5,
            optional=True,
            advanced=True,
            tooltip="Another file begins after so many gigabytes, and the parts stay apart. 0: one file.",
        ),
    ]


def _coded() -> list[io.Input]:
    """How the file is coded."""
    return [
        io.Combo.Input(
            "encoder",
            options=list(ENCODERS),
            default=X264,
            optional=True,
            advanced=True,
            tooltip="Who codes the file. "
            + "; ".join(f"{name}: {what}" for name, what in ENCODERS.items())
            + ". One that does not work here is refused before the first block.",
        ),
        io.Int.Input(
            "quality",
            default=DEFAULT_CRF,
            min=0,
            max=51,
            optional=True,
            advanced=True,
            tooltip="Quality of the file (crf): lower is better and larger, 0 loses only the colours' "
            "resolution; 6 less is about twice the size. A take that is gone on with keeps its own.",
        ),
        io.Boolean.Input(
            "enlarge_small",
            default=True,
            optional=True,
            advanced=True,
            tooltip=f"Pictures with a side under {SMALL_SIDE} pixels are drawn larger in the file, each "
            "pixel as a square of 2, 4, 6 ... pixels, so that edges between colours stay sharp in every "
            "player. Start From and Resume Stream read the pictures as they were.",
        ),
    ]
