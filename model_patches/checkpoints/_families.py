"""What a file of weights is, by its keys and shapes alone: which Wan 2.1, which variant of it, or what else.

Self-Forcing, Causal-Forcing, LongLive, Infinity-RoPE, Reward Forcing, CausVid and Krea Realtime changed the
weights of Wan 2.1 and none of its layers: their files cannot be told apart here. VideoMLA changed the layers,
and Echo-Infinity added some (`query_memory_encoder`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..arch.wan import WanConfig
from ..geometry import LATENT_CHANNELS
from ._sizes import SIGN, read_config
from .files import Shapes, first_few
from .nesting import MEMORY, is_mla
from .variants import VARIANTS, variant_of
from .wan22 import CHANNELS_5B, is_5b

DENSE, VIDEO_MLA = "dense", "video_mla"
SIZES = {1536: "1.3B", 5120: "14B"}  # by width (Wan 2.1, arXiv 2503.20314, table 2)
OTHER_SIZE = "another size"
QUANTISED = re.compile(
    r"(.+\.)?(scaled_fp8|scale_weight|scale_input|weight_scale(_2)?|input_scale|comfy_quant)$"
)


@dataclass(frozen=True, slots=True)
class OtherKind:
    """A kind of file that is no diffusion model of Wan."""

    name: str
    sign: re.Pattern[str]  # the beginning of a key that it alone has
    remedy: str  # the next step, "" for the usual one


OTHER_KINDS = (
    OtherKind(
        "a LoRA, which changes a model and is none",
        re.compile(r".*(\.lora_(A|B|up|down)\b|\.lora\.(up|down)\b|\.hada_w1|\.diff(_[bm])?$)"),
        "Load the checkpoint that it belongs to, and give this file as its LoRA.",
    ),
    OtherKind(
        "a VAE",
        re.compile(r"(first_stage_model|vae)\.|(decoder|encoder)\.(middle|conv_in|conv1|mid_block)\b"),
        "Put it into models/vae and load it with Load VAE.",
    ),
    OtherKind(
        "a text encoder",
        re.compile(
            r"(encoder\.block\.\d+\.layer|text_model|token_embedding\.weight|shared\.weight|spiece_model)"
        ),
        "Put it into models/text_encoders and load it with Load CLIP, type wan.",
    ),
    OtherKind("Stable Diffusion 1, 2 or XL", re.compile(r"(input|output|middle)_blocks?\."), ""),
    OtherKind("Flux or HunyuanVideo", re.compile(r"(double|single)_blocks\."), ""),
    OtherKind("Stable Diffusion 3", re.compile(r"joint_blocks\."), ""),
    OtherKind("another video model, such as LTX-Video", re.compile(r"transformer_blocks\."), ""),
)


@dataclass(frozen=True, slots=True)
class Structure:
    """Which Wan 2.1 a file's keys and shapes are of."""

    kind: str  # DENSE, VIDEO_MLA: which self-attention
    config: WanConfig
    memory: bool  # Echo-Infinity's memory encoder lies in the file
    quantised: bool  # weights with scales beside them

    @property
    def size(self) -> str:
        """1.3B or 14B by width, else OTHER_SIZE."""
        return SIZES.get(self.config.dim, OTHER_SIZE)

    def __str__(self) -> str:
        attention = "VideoMLA's attention" if self.kind == VIDEO_MLA else "dense attention"
        return (
            f"Wan 2.1 text to video, {self.size}: {self.config.num_layers} layers of {self.config.dim}, "
            f"{attention}"
            + (", quantised" if self.quantised else "")
            + (", memory encoder inside" if self.memory else "")
        )


def structure_of(
    where: str,
    name: str,
    shapes: Shapes,
    sizes: Mapping[str, object] | None = None,
    latent_channels: int | None = LATENT_CHANNELS,
) -> Structure:
    """Which Wan 2.1 text to video a file holds; ValueError for all else, saying what it is instead.

    where: begins an error. name: of the file, for errors. shapes: by keys without prefixes, in Wan's own
    names. sizes: the metadata's, see `_sizes.read_config`. latent_channels: that the model must take and
    give; None: any number.
    """
    if SIGN not in shapes:
        raise ValueError(f"{where}: {_why_not_wan(name, shapes)}")
    for sign, what in VARIANTS:
        if key := _first_key(sign, shapes):
            raise ValueError(f"{where}: {name} is {what} ({key}). {_REMEDY}")
    if latent_channels is not None and is_5b(shapes):
        raise ValueError(f"{where}: {name} is {variant_of(CHANNELS_5B, CHANNELS_5B)}. {_REMEDY_5B}")
    config = read_config(f"{where}: {name}", shapes, sizes)
    channels = (config.in_channels, config.out_channels)
    if latent_channels is not None and channels != (latent_channels, latent_channels):
        raise ValueError(
            f"{where}: {name} is {variant_of(*channels)}; Wan 2.1 text to video takes {LATENT_CHANNELS} and "
            f"gives {LATENT_CHANNELS}. {_REMEDY}"
        )
    return Structure(
        VIDEO_MLA if is_mla(shapes) else DENSE,
        config,
        any(key.startswith(MEMORY) for key in shapes),
        any(QUANTISED.fullmatch(key) for key in shapes),
    )


def model_keys(keys: Iterable[str]) -> list[str]:
    """Keys of the diffusion model's weights, without the memory encoder's and without scales."""
    return [key for key in keys if not key.startswith(MEMORY) and not QUANTISED.fullmatch(key)]


_REMEDY_5B = (
    f"A stream needs Wan 2.1 text to video, which takes and gives {LATENT_CHANNELS} channels; LongLive's "
    f"first version is one, LongLive-1.3B."
)
_REMEDY = "A stream needs a text-to-video checkpoint: choose the file that its authors call t2v."


def _why_not_wan(name: str, shapes: Shapes) -> str:
    for kind in OTHER_KINDS:
        if key := _first_key(kind.sign, shapes):
            remedy = kind.remedy or "A stream needs Wan 2.1 text to video; choose such a checkpoint."
            return f"{name} is {kind.name} ({key}). {remedy}"
    return (
        f"{name} is no Wan 2.1 model: it has no {SIGN}, and its {len(shapes)} keys begin with "
        f"{first_few(sorted(shapes)) or 'nothing'}. Choose a Wan 2.1 text-to-video checkpoint."
    )


def _first_key(sign: re.Pattern[str], shapes: Shapes) -> str | None:
    return next((key for key in shapes if sign.match(key)), None)
