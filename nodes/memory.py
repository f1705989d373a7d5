"""The node that gives a MODEL a memory of what left its window, and the choice that a stream reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import torch
from comfy_api.v0_0_2 import io

from ..model_patches.attention.positions import PRESETS
from ..model_patches.checkpoints.lora import Lora
from ..model_patches.memory.cost import MemoryCost
from ..model_patches.memory.kind import MemoryKind, Option, Source
from ..model_patches.memory.policies import POLICIES, find_policy
from ..model_patches.memory.policy import MemoryPolicy
from ..model_patches.sampler.rolling import ROLLING
from ..model_patches.stream.config import StreamConfig
from ..pocket.models import MEMORY_FILE, WEIGHTS
from .host.lora import patches_of
from .host.memory import managed
from .host.recipe import ModelRecipe, recipe_of, set_recipe
from .small_cache import BUILT_IN, FOLDER, NO_FILE, labels

KEY = "rivulet_memory"
ENDINGS = (".safetensors", ".pt", ".pth")
FOLDERS = (FOLDER, "diffusion_models", "loras")  # of models/
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """What a user chose; grid and device are known when a stream's are."""

    name: str = "off"  # in the table of policies
    source: Source | None = None  # the memory's file as it was read
    options: Mapping[str, bool | float] = field(default_factory=dict)

    def policy_for(self, config: StreamConfig, device: torch.device) -> MemoryPolicy:
        """The memory of a stream of this contract; refuses positions it was not trained with.

        device: of the model. The host loads the memory's weights to it where they are needed.
        """
        away = management.unet_offload_device()
        return managed(find_policy(self.name).build(config, away, self.source, self.options), device)

    def cost_for(self, config: StreamConfig) -> MemoryCost:
        """What it takes in such a stream."""
        return find_policy(self.name).cost(config, self.source, self.options)


def memory_of(model: Any) -> MemoryChoice:
    """The MODEL's memory; without one, off."""
    return model.get_attachment(KEY) or MemoryChoice()


class RivuletMemory(io.ComfyNode):
    """The memory of what left the window."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletMemory",
            display_name="Evolving Memory",
            category="Rivulet",
            description="Lets a model remember what left its window. The cost stays the same however long "
            "the stream is. Connect it between the loader and Stream Video.",
            search_aliases=["long term memory", "echo infinity", "reward forcing", "consistency", "memory"],
            inputs=[
                io.Model.Input("model", tooltip="From the loader, before Stream Video and Calibrate Cache."),
                io.Combo.Input(
                    "memory",
                    options=list(POLICIES),
                    default="learned",
                    tooltip="How it remembers. " + labels(POLICIES.values()),
                ),
                io.Combo.Input(
                    "memory_file",
                    options=[NO_FILE, BUILT_IN, *memory_files()],
                    default=NO_FILE,
                    tooltip=" ".join(f"For {kind.name}: {kind.files}." for kind in _file_kinds())
                    + f" From models/{', models/'.join(FOLDERS)}.",
                ),
                *(
                    _widget(option, f"For {kind.name}: {option.help}")
                    for kind in POLICIES.values()
                    for option in kind.options
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="With the memory, its LoRA where it has one, and the positions it needs.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, memory: str, memory_file: str, **options: bool | float) -> io.NodeOutput:
        """Returns the MODEL, patched; the one that came in stays as it is."""
        why_not_together(memory, memory_file)
        kind, source = POLICIES[memory], None
        dit, model_recipe = model.get_model_object("diffusion_model"), recipe_of(model)
        if refusal := kind.why_not(dit, model_recipe.taught):
            raise ValueError(f"Evolving Memory: {refusal}")
        clone = model.clone()
        if kind.files:
            source = kind.load(path_of(memory_file), dit, model_recipe.taught)
            log.info("Evolving Memory: %s", source)
        preset = kind.preset(model_recipe.preset, source)
        if model_recipe.sampler == ROLLING and PRESETS[preset].memory_frames:
            raise ValueError(_no_place(memory, model_recipe))
        if source is not None and source.lora is not None:
            _patch(clone, source.lora, source.path)
        clone.set_attachments(KEY, MemoryChoice(memory, source, options))
        if preset != model_recipe.preset:
            set_recipe(clone, replace(model_recipe, preset=preset))
        return io.NodeOutput(clone)

    @classmethod
    def fingerprint_inputs(cls, memory_file: str = NO_FILE, **_: object) -> object:
        """When the chosen file was last written: another file of the same name is read anew."""
        try:
            return (memory_file, path_of(memory_file).stat().st_mtime_ns)
        except (OSError, ValueError):
            return memory_file


def memory_files() -> list[str]:
    """What can be chosen: files below models/, each with the folder it lies in."""
    return [
        f"{folder}/{name}"
        for folder in FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if name.endswith(ENDINGS)
    ]


def path_of(memory_file: str) -> Path:
    """Where a chosen file lies; refuses what is not in one of the folders."""
    if memory_file == BUILT_IN:
        return WEIGHTS / MEMORY_FILE
    folder, _, name = memory_file.partition("/")
    inside = folder in FOLDERS and name.endswith(ENDINGS) and ".." not in Path(name).parts
    path = folder_paths.get_full_path(folder, name) if inside and not Path(name).is_absolute() else None
    if path is None:
        raise ValueError(
            f"Evolving Memory: memory_file must be a file of models/{', models/'.join(FOLDERS)}, got "
            f"{memory_file!r}; choose one from the list; press R to reload it."
        )
    return Path(path)


def why_not_together(memory: str, memory_file: str) -> None:
    """Raises ValueError where the choices contradict each other."""
    kind, chosen = find_policy(memory, "Evolving Memory"), memory_file != NO_FILE
    if kind.files and not chosen:
        fileless = [other.name for other in POLICIES.values() if not other.files]
        raise ValueError(
            f"Evolving Memory: {memory} needs {kind.needs}; choose one in memory_file ({BUILT_IN!r} for the "
            f"Pocket Model), or a memory that needs none: {' or '.join(fileless)}."
        )
    if (
        chosen and not kind.files and memory != MemoryChoice().name
    ):  # as without the node, whatever else is set
        raise ValueError(
            f"Evolving Memory: {memory} uses no file, but memory_file is set. Set it to "
            f"{NO_FILE}, or choose {' or '.join(other.name for other in _file_kinds())}."
        )


def _no_place(memory: str, recipe: ModelRecipe) -> str:
    """Why a memory with positions of its own is not for a recipe that denoises several blocks together."""
    others = [
        kind.name
        for kind in POLICIES.values()
        if not kind.files and not PRESETS[kind.preset(recipe.preset, None)].memory_frames
    ]
    return (
        f"Evolving Memory: {memory} is seen at positions of its own, and the recipe "
        f"{recipe.name or recipe.preset} denoises {len(recipe.sigmas)} blocks together, which leaves none "
        f"for it; set memory to {' or '.join(others)}."
    )


def _file_kinds() -> list[MemoryKind]:
    """Policies that are built from a file."""
    return [kind for kind in POLICIES.values() if kind.files]


def _widget(option: Option, tooltip: str) -> io.Input:
    """A policy's option as a widget, out of the way."""
    if isinstance(option.default, bool):
        return io.Boolean.Input(option.name, default=option.default, advanced=True, tooltip=tooltip)
    return io.Float.Input(
        option.name,
        default=option.default,
        min=option.least,
        max=option.most,
        step=option.step,
        round=option.step,
        advanced=True,
        tooltip=tooltip,
    )


def _patch(model: Any, lora: Lora, path: Path) -> None:
    """Has the host add the LoRA to the MODEL's weights, wherever it keeps them."""
    patches = patches_of(lora)
    missing = set(patches) - set(model.add_patches(patches))
    if missing:
        raise ValueError(
            f"Evolving Memory: {len(missing)} of the {len(patches)} layers of the LoRA in {path.name} are "
            f"not in this model, such as {min(missing)}; connect the model that the memory was trained with."
        )
