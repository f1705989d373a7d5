"""The built-in models as the host's MODEL, CLIP and VAE: a graph that runs with nothing downloaded."""

from __future__ import annotations

from typing import Any
from weakref import WeakMethod

import comfy.sd
import comfy.utils
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..model_patches.vae.load import load_vae
from ..model_patches.vae.wan import SPACE_STRIDE, unpacked
from ..pocket import text
from ..pocket.lit_reader import flatten_in_place
from ..pocket.lit_weights import LIT_FILE, UPSCALE, load_lit
from ..pocket.models import DIT_FILE, MLA_FILE, MLA_MEMORY_FILE, VAE_FILE, WEIGHTS
from .host.load_model import Source, patcher_of
from .host.recipe import parse_recipe, set_recipe

DENSE = "Wan's"
TRANSFORMERS = {
    DENSE: DIT_FILE,
    "VideoMLA's": MLA_FILE,
    "VideoMLA's, for Evolving Memory": MLA_MEMORY_FILE,
}

LIT, FLAT = "soft light, 128 px", "plain, 64 px"


class PocketClip:
    """What core's CLIPTextEncode asks of a CLIP, with the pocket world's phrases for a language."""

    def tokenize(self, prompt: str, **_: Any) -> str:
        """The prompt itself; refused in words if it says what the pocket world does not hold."""
        if prompt.strip():
            text.tokenize(prompt)
        return prompt

    def encode_from_tokens_scheduled(self, tokens: str, **_: Any) -> list[list[Any]]:
        """CONDITIONING of the prompt; the empty one is the negative for guidance."""
        states: torch.Tensor = text.encode(tokens) if tokens.strip() else text.no_text()
        return [[states, {"pooled_output": None}]]

    def clone(self) -> PocketClip:
        """Itself: it has nothing that could be patched."""
        return self


class RivuletPocketModel(io.ComfyNode):
    """The built-in models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletPocketModel",
            display_name="Pocket Model",
            category="Rivulet",
            description="Small models that come with Rivulet and know a world of moving shapes: try a "
            "stream without a download or a GPU.",
            search_aliases=["test model", "demo model", "no download"],
            inputs=[
                io.Combo.Input(
                    "attention",
                    options=list(TRANSFORMERS),
                    default=DENSE,
                    optional=True,
                    tooltip="Wan's: the transformer as it was trained. VideoMLA's: the same converted to a "
                    "low-rank latent, for the cache formats mla and mla-int8. For Evolving Memory: the "
                    "VideoMLA one, trained to read the built-in memory.",
                ),
                io.Combo.Input(
                    "look",
                    options=[LIT, FLAT],
                    default=LIT,
                    optional=True,
                    tooltip="How the VAE draws: in soft light, at twice the width and height that the stream "
                    "is made with, or in flat colours, which figures of quality are of. Model and stream "
                    "are the same.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The transformer, with its recipe."),
                io.Clip.Output(display_name="clip", tooltip="Knows only the words of the small world."),
                io.Vae.Output(display_name="vae", tooltip="A small Wan 2.1 VAE."),
            ],
        )

    @classmethod
    def execute(cls, attention: str = DENSE, look: str = LIT) -> io.NodeOutput:
        """Returns the models as the host loads them from the pack's own files."""
        source = Source(WEIGHTS / TRANSFORMERS[attention])
        checkpoint = source.open()
        model = patcher_of(checkpoint, source)
        set_recipe(model, parse_recipe(checkpoint.metadata["recipe"]))
        return io.NodeOutput(model, PocketClip(), _lit_vae() if look == LIT else _flat_vae())


def _flat_vae() -> Any:
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(WEIGHTS / VAE_FILE)))


def _lit_vae() -> Any:
    """The host's VAE with the lit decoder, for the host's own nodes too.

    They leave the 12 channels of a decoder's head as they are, so its decode gives pictures of three.
    Pictures to encode are read into flat ones, which the encoder was trained on: a stream's own end can be
    gone on with.
    """
    lit = load_lit(load_vae(WEIGHTS / VAE_FILE), WEIGHTS / LIT_FILE)
    vae = comfy.sd.VAE(sd=lit.state_dict())
    model, to_model = vae.first_stage_model, vae.process_input
    packed = WeakMethod(model.decode)  # a model that holds itself stays until the collector finds it

    def decode(latents_BCTHW: Tensor, **options: Any) -> Tensor:
        whole = packed()
        assert whole is not None, "it is the model's own"
        return unpacked(whole(latents_BCTHW, **options), UPSCALE)

    def process_input(pixels: Tensor) -> Tensor:
        return to_model(_flattened(pixels))

    model.decode, vae.process_input = decode, process_input
    side = SPACE_STRIDE * UPSCALE  # pixels of a latent's place, by which tiles are put together
    vae.upscale_ratio = (vae.upscale_ratio[0], side, side)
    vae.upscale_index_formula = (vae.upscale_index_formula[0], side, side)
    return vae


def _flattened(pixels: Tensor) -> Tensor:
    """Flat pictures [B, 3, F, H, W] or [B, 3, H, W] of those in soft light, in [0, 1]."""
    channels_last = (pixels.movedim(1, -1) * 255).round().clamp(0, 255).to(torch.uint8)
    flat = flatten_in_place(channels_last.flatten(0, -4).cpu())
    return (flat.view(channels_last.shape).movedim(-1, 1) / 255).to(pixels)
