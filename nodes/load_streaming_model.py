"""The node that loads a published checkpoint together with how it wants to be streamed."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io, ui

from ..model_patches.arch.rotary import BANDS
from ..model_patches.checkpoints.checkpoint import FUSED_ORDERS, Checkpoint
from ..model_patches.checkpoints.published import RECIPES
from ..model_patches.checkpoints.recipes import caution, find_recipe, recipes_in_name
from ..model_patches.reason import reason_of
from .host.load_model import DTYPES, WHERE, Source, patcher_of, with_lora
from .host.recipe import ModelRecipe, parse_recipe, set_recipe

FOLDERS = ("diffusion_models", "checkpoints", "loras")
SECOND = "checkpoints: "  # begins the files of that folder in the list
NOTHING, NO_LORA = "no file yet", "none"
RECOGNISED, RELEASED, FILES = "as recognised", "as released", "as the file says"
COPIES = (RELEASED, "generator_ema", "generator")
COMPANIONS = (  # folder, words of a file's name, what it is, where it comes from
    ("vae", ("wan", "vae"), "Wan 2.1's VAE", "wan_2.1_vae.safetensors"),
    ("text_encoders", ("umt5",), "the text encoder umT5", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
)
PUBLISHER = "Comfy-Org/Wan_2.1_ComfyUI_repackaged on Hugging Face"
GGUF_LOADER = "Unet Loader (GGUF) of ComfyUI-GGUF"


class RivuletLoadModel(io.ComfyNode):
    """The loader of published checkpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletLoadModel",
            display_name=WHERE,
            category="Rivulet",
            description="Loads a published causal Wan 2.1 checkpoint as it was released, recognises it by "
            "its tensors and passes its recipe (block, steps, positions) to Stream Video.",
            search_aliases=[
                "wan",
                "self forcing",
                "causal forcing",
                "longlive",
                "reward forcing",
                "videomla",
                "echo infinity",
                "causvid",
                "krea realtime",
            ],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "model_file",
                    options=model_files() or [NOTHING],
                    tooltip="A .safetensors or .pt file of models/diffusion_models or models/checkpoints. "
                    f"GGUF files: {GGUF_LOADER}.",
                ),
                io.Combo.Input(
                    "recipe",
                    options=[RECOGNISED, *(recipe.name for recipe in RECIPES)],
                    default=RECOGNISED,
                    tooltip="How the checkpoint is streamed. as recognised: by its tensors, then by the "
                    "file's name; the report says which and why.",
                ),
                io.Combo.Input(
                    "lora_file",
                    options=[NO_LORA, *folder_paths.get_filename_list("loras")],
                    default=NO_LORA,
                    tooltip="The LoRA that belongs to the checkpoint, such as LongLive's, or one for "
                    "its Wan; in models/loras. The report names what does not fit.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Factor on the LoRA's alpha / rank, no unit; 1: as trained.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(DTYPES),
                    default="default",
                    advanced=True,
                    tooltip="How ComfyUI stores the weights; fp8 takes one byte each and loses a little.",
                ),
                io.Combo.Input(
                    "weights",
                    options=list(COPIES),
                    default=RELEASED,
                    advanced=True,
                    tooltip="Which copy to load from a file with two: the average over training "
                    "(generator_ema) or the last weights (generator).",
                ),
                io.Combo.Input(
                    "rope_bands",
                    options=[FILES, *BANDS],
                    default=FILES,
                    advanced=True,
                    tooltip="VideoMLA only: rotary bands, which its files do not name; without a name, "
                    "truncated.",
                ),
                io.Combo.Input(
                    "fused_order",
                    options=list(FUSED_ORDERS),
                    default=FUSED_ORDERS[0],
                    advanced=True,
                    tooltip="VideoMLA only: order of the parts in joined up-projections; shapes do not "
                    "show it.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For Stream Video, with its recipe."),
                io.String.Output(
                    display_name="report", tooltip="What the file is, its recipe, and what was assumed."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model_file: str,
        recipe: str,
        lora_file: str,
        lora_strength: float,
        weight_dtype: str,
        weights: str,
        rope_bands: str,
        fused_order: str,
    ) -> io.NodeOutput:
        """Returns the model with its recipe, and the report."""
        source = Source(
            path_of(model_file),
            None if weights == RELEASED else weights,
            _preferred_copy(recipe, model_file),
            weight_dtype,
            None if rope_bands == FILES else rope_bands,
            fused_order,
        )
        checkpoint = source.open()
        lines = [str(checkpoint)]
        chosen, said = choose_recipe(checkpoint, model_file, recipe)
        model = patcher_of(checkpoint, source)
        set_recipe(model, chosen)
        if lora_file != NO_LORA:
            model, lora, unfit = with_lora(model, lora_path(lora_file), lora_strength)
            lines.append(f"LoRA {lora}, strength {lora_strength:g}.")
            if unfit.changes:
                lines.append(f"Left out of the LoRA: {unfit}.")
        text = "\n".join([*lines, *said, *companions()])
        return io.NodeOutput(model, text, ui=ui.PreviewText(text))

    @classmethod
    def validate_inputs(cls, model_file: str | None = None) -> bool | str:
        """True, or why the graph cannot be queued; what comes over a link is read when it is there."""
        try:
            return model_file is None or bool(path_of(model_file))
        except ValueError as refusal:
            return str(refusal)

    @classmethod
    def fingerprint_inputs(cls, model_file: str = "", lora_file: str = NO_LORA, **_: object) -> object:
        """When the chosen files were last written: others of the same name are read anew."""
        try:
            files = [path_of(model_file), *([] if lora_file == NO_LORA else [lora_path(lora_file)])]
            return [(str(path), path.stat().st_mtime_ns) for path in files]
        except (OSError, ValueError):
            return (model_file, lora_file)


def model_files() -> list[str]:
    """What can be chosen, those of models/checkpoints after the others."""
    first, second = (folder_paths.get_filename_list(folder) for folder in FOLDERS[:2])
    return [*first, *(SECOND + name for name in second)]


def path_of(model_file: str) -> Path:
    """Where a chosen model lies."""
    if model_file == NOTHING:
        raise ValueError(
            f"{WHERE}: there is no model yet; put a checkpoint into models/diffusion_models and press R. The "
            f"README's table of models says which there are and where they come from. GGUF files are not "
            f"listed here: load them with {GGUF_LOADER}."
        )
    folder = FOLDERS[1] if model_file.startswith(SECOND) else FOLDERS[0]
    return _full_path(folder, model_file.removeprefix(SECOND))


def lora_path(lora_file: str) -> Path:
    """Where a chosen LoRA lies."""
    return _full_path(FOLDERS[2], lora_file)


def _full_path(folder: str, name: str) -> Path:
    if name.lower().endswith(".gguf"):
        raise ValueError(
            f"{WHERE}: {name} is a GGUF file, which another pack reads: load it with {GGUF_LOADER} and "
            f"connect its MODEL to Stream Video, whose widgets then say what a recipe would."
        )
    outside = Path(name).is_absolute() or ".." in Path(name).parts
    path = None if outside else folder_paths.get_full_path(folder, name)
    if path is None:
        raise ValueError(
            f"{WHERE}: there is no {name} in models/{folder}; press R to reload the list, "
            f"then choose from it."
        )
    return Path(path)


def _preferred_copy(recipe: str, model_file: str) -> str | None:
    """Of two copies in a file, the one that the release runs, as far as the name or the user says which."""
    if recipe != RECOGNISED:
        return find_recipe(recipe).copy
    named = recipes_in_name(model_file)
    return named[0].copy if named else None


def choose_recipe(checkpoint: Checkpoint, model_file: str, wanted: str) -> tuple[ModelRecipe, list[str]]:
    """The recipe to stream with, and sentences about it: the file's own, the user's, or its family's."""
    stored = checkpoint.metadata.get("recipe")
    if wanted == RECOGNISED and stored is not None:
        return _stored_recipe(checkpoint.path, stored), ["Recipe: written in the file itself."]
    name = None if wanted == RECOGNISED else wanted
    choice = checkpoint.recipe(name, model_file.removeprefix(SECOND))
    record = choice.recipe
    model_recipe = ModelRecipe(
        record.preset,
        record.block_frames,
        record.cfg,
        record.sigmas,
        True,
        record.name,
        record.memory,
        record.switch,
        record.first_sigmas,
        sampler=record.sampler,
    )
    said = [f"Recipe {record}", f"Why: {choice.why}"]
    if record.memory != "off":
        said.append(f"Memory {record.memory}: connect Evolving Memory, else the stream runs without one.")
    if record.lora:
        said.append(f"Its release adds a LoRA: {record.lora}.")
    return model_recipe, [*said, *filter(None, [caution(model_file)])]


def _stored_recipe(path: Path, text: str) -> ModelRecipe:
    """What a file of ours says of itself."""
    try:
        return parse_recipe(text)
    except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{WHERE}: the metadata entry `recipe` of {path.name} cannot be read ({reason_of(error)}), "
            f"it says {text[:60]!r}; choose a recipe instead of {RECOGNISED}."
        ) from error


def companions() -> list[str]:
    """A sentence for each file that a stream needs beside the model and that is not there."""
    missing = []
    for folder, words, what, file in COMPANIONS:
        names = [name.lower() for name in folder_paths.get_filename_list(folder)]
        if not any(all(word in name for word in words) for name in names):
            missing.append(
                f"No file in models/{folder} is called like {what}: put {file} there, from {PUBLISHER}, and "
                f"press R."
            )
    return missing
