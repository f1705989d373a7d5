"""The built-in models as the host's MODEL, CLIP and VAE: a graph that runs with nothing downloaded."""

from __future__ import annotations

from typing import Any

import comfy.sd
import comfy.utils
import torch
from comfy_api.v0_0_2 import io

from ..pocket import text
from ..pocket.models import DIT_FILE, MLA_FILE, MLA_MEMORY_FILE, VAE_FILE, WEIGHTS
from .host.load_model import Source, patcher_of
from .host.recipe import parse_recipe, set_recipe

DENSE = "Wan's"
TRANSFORMERS = {
    DENSE: DIT_FILE,
    "VideoMLA's": MLA_FILE,
    "VideoMLA's, for Evolving Memory": MLA_MEMORY_FILE,
}


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
                )
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The transformer, with its recipe."),
                io.Clip.Output(display_name="clip", tooltip="Knows only the words of the small world."),
                io.Vae.Output(display_name="vae", tooltip="A small Wan 2.1 VAE."),
            ],
        )

    @classmethod
    def execute(cls, attention: str = DENSE) -> io.NodeOutput:
        """Returns the models as the host loads them from the pack's own files."""
        source = Source(WEIGHTS / TRANSFORMERS[attention])
        checkpoint = source.open()
        model = patcher_of(checkpoint, source)
        set_recipe(model, parse_recipe(checkpoint.metadata["recipe"]))
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(WEIGHTS / VAE_FILE)))
        return io.NodeOutput(model, PocketClip(), vae)
