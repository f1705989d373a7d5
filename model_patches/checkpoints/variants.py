"""Variants of Wan that take more than noise and text, or other latents: none of them can be streamed."""

from __future__ import annotations

import re

from . import wan22

VARIANTS = (  # by keys that text to video does not have
    (re.compile(r"vace_(blocks|patch_embedding)"), "a VACE model, which is made for control videos"),
    (re.compile(r"control_adapter\."), "a camera model"),
    (
        re.compile(r"(audio_proj|casual_audio_encoder|face_adapter|patch_embedding_\w+)\b"),
        "a model that takes sound, a face or a pose",
    ),
    (re.compile(r"img_emb\.|.*\.(k_img|v_img)\."), "an image-to-video model"),
    (re.compile(r"ref_conv\."), "a model with a reference picture"),
    (
        re.compile(
            r"(?:.+\.)?memory_(weight|bias|modulation|(patch|text|time)_embedding|time_projection|head)\b"
        ),
        "Self Gradient Forcing Plus, which reads what it remembers with weights of its own; Self Gradient "
        "Forcing's own files, such as chunkwise/ar/model.pt, can be streamed",
    ),
)
CHANNELS = {  # of the latents that a model takes
    36: "an image-to-video model",
    32: "a control or inpainting model",
    48: "a control model",
    52: "a control model",
}


def variant_of(in_channels: int, out_channels: int) -> str:
    """What a model is that takes and gives so many latent channels, where Wan 2.1 has LATENT_CHANNELS."""
    if in_channels == out_channels == wan22.CHANNELS_5B:
        return f"{wan22.MODEL_5B}, whose VAE cannot be streamed here, or LongLive 2.0, which is made from it"
    kind = CHANNELS.get(in_channels, "another variant of Wan")
    return f"{kind}, which takes {in_channels} latent channels and gives {out_channels}"
