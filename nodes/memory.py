"""The node that has a MODEL remember what left its window, and how a stream takes the memory up."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.v0_0_2 import io

from ..model_patches.arch.mla import MlaAttention
from ..model_patches.attention.positions import PRESETS
from ..model_patches.checkpoints.lora import Lora
from ..model_patches.memory.coupling import training_of, why_not
from ..model_patches.memory.ema import EmaSink
from ..model_patches.memory.encoder import EncoderConfig
from ..model_patches.memory.learned import LearnedMemory
from ..model_patches.memory.load import MemoryFile, load_memory
from ..model_patches.memory.policy import OFF, MemoryPolicy
from ..model_patches.memory.resize import for_grid
from ..model_patches.stream.state import StreamConfig
from ..pocket.models import MEMORY_FILE, WEIGHTS
from .host import recipe
from .host.lora import patches_of
from .small_cache import BUILT_IN, FOLDER, NO_FILE

KEY = "rivulet_memory"
ENDINGS = (".safetensors", ".pt", ".pth")
FOLDERS = (FOLDER, "diffusion_models", "loras")  # of models/
MEMORIES = {
    "learned": "a trained state of a few frames' size reads what leaves the window (Echo-Infinity)",
    "ema": "what leaves the window is folded into the first frames bit by bit (Reward Forcing); no file",
    "off": "what left the window is forgotten",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """What a user chose; the encoder's grid and device are known when a stream's are."""

    name: str  # one of MEMORIES
    file: MemoryFile | None = None  # of learned
    from_start: bool = False
    keep: float = 0.999

    def policy_for(self, config: StreamConfig, device: torch.device) -> MemoryPolicy:
        """The memory of a stream of this contract; refuses positions it was not trained with."""
        if self.name == "ema":
            return EmaSink(sink_frames=config.positions.sink_frames, keep=self.keep)
        if self.file is None:
            return OFF
        if refusal := why_not(self.file.encoder, config.positions, self.file.changes_the_model):
            raise ValueError(refusal)
        geometry, training = config.geometry, training_of(self.file.encoder.config)
        encoder = for_grid(self.file.encoder, geometry.grid_height, geometry.grid_width)
        # the file's own encoder stays as it was read: the next stream may be in another dtype
        there = deepcopy(encoder).to(device, config.dtype)
        how = self.from_start, training.turned_keys, training.recache
        return LearnedMemory(there, self.file.fingerprint, *how)

    def sizes_for(self, config: StreamConfig) -> EncoderConfig | None:
        """The sizes of a learned memory on a stream's grid, None for every other."""
        if self.file is None:
            return None
        grid = config.geometry.grid_height, config.geometry.grid_width
        return replace(self.file.encoder.config, grid_height=grid[0], grid_width=grid[1])


def of(model: Any) -> MemoryChoice:
    """The MODEL's memory; without one, off."""
    return model.get_attachment(KEY) or MemoryChoice("off")


class RivuletMemory(io.ComfyNode):
    """The memory of what left the window."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletMemory",
            display_name="Evolving Memory",
            category="rivulet",
            description="Has a model remember what left its window, at constant cost however long the "
            "stream is. Goes between the loader and Stream Video.",
            search_aliases=["long term memory", "echo infinity", "reward forcing", "consistency", "memory"],
            inputs=[
                io.Model.Input("model", tooltip="From the loader, before Stream Video and Calibrate Cache."),
                io.Combo.Input(
                    "memory",
                    options=list(MEMORIES),
                    default="learned",
                    tooltip="How it remembers. " + " ".join(f"{n}: {t}." for n, t in MEMORIES.items()),
                ),
                io.Combo.Input(
                    "memory_file",
                    options=[NO_FILE, BUILT_IN, *memory_files()],
                    default=NO_FILE,
                    tooltip="For learned: Echo-Infinity's base file (videos of 5 s), its file of LoRA and "
                    "memory (long ones), or what train-memory wrote. From models/"
                    + ", models/".join(FOLDERS)
                    + ".",
                ),
                io.Boolean.Input(
                    "from_start",
                    default=False,
                    advanced=True,
                    tooltip="For learned: shows the trained initial state before anything has left the "
                    "window, as the paper's text says; its released code shows nothing until then.",
                ),
                io.Float.Input(
                    "ema_keep",
                    default=0.999,
                    min=0.5,
                    max=0.9999,
                    step=0.0001,
                    round=0.0001,
                    advanced=True,
                    tooltip="For ema: share of a first frame that stays each time it takes in one that left "
                    "the window, without unit; published is 0.999.",
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
    def execute(
        cls, model: Any, memory: str, memory_file: str, from_start: bool, ema_keep: float
    ) -> io.NodeOutput:
        """Returns the MODEL, patched; the one that came in stays as it is."""
        why_not_together(memory, memory_file)
        clone = model.clone()
        clone.set_attachments(KEY, MemoryChoice(memory, keep=ema_keep))
        if memory == "learned":
            dit = model.get_model_object("diffusion_model")
            taught = recipe.of(model).taught
            if not taught:
                _refuse_latents(dit, memory_file)
            file = load_memory(path_of(memory_file), dit, model_memory=taught)
            log.info("Evolving Memory: %s", file)
            if file.lora is not None:
                _patch(clone, file.lora, file.path)
            clone.set_attachments(KEY, MemoryChoice(memory, file, from_start))
            preset = file.metadata.get("preset", _preset_of(file))
            recipe.give(clone, replace(recipe.of(model), preset=preset))
        elif memory == "ema" and not PRESETS[recipe.of(model).preset].sink_frames:
            recipe.give(clone, replace(recipe.of(model), preset="reward_forcing"))
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
    found = folder_paths.get_full_path(folder, name) if inside and not Path(name).is_absolute() else None
    if found is None:
        raise ValueError(
            f"Evolving Memory: memory_file must be a file of models/{', models/'.join(FOLDERS)}, got "
            f"{memory_file!r}; choose one of the list, press R to read it anew."
        )
    return Path(found)


def why_not_together(memory: str, memory_file: str) -> None:
    """Raises ValueError where the choices contradict each other."""
    if memory not in MEMORIES:
        raise ValueError(f"Evolving Memory: there is no {memory!r}; there are {', '.join(MEMORIES)}.")
    if memory == "learned" and memory_file == NO_FILE:
        raise ValueError(
            "Evolving Memory: learned needs the file it was trained into; choose one in memory_file "
            f"({BUILT_IN!r} for the Pocket Model). ema needs none."
        )
    if memory != "learned" and memory_file != NO_FILE:
        raise ValueError(
            f"Evolving Memory: {memory} uses no file, and one is given; set memory_file to {NO_FILE}, or "
            f"choose learned."
        )


def _refuse_latents(dit: Any, memory_file: str) -> None:
    """Raises ValueError for VideoMLA's attention that was not taught to read a dense model's memory."""
    if isinstance(dit.blocks[0].self_attn, MlaAttention):
        raise ValueError(
            f"Evolving Memory: the model keeps VideoMLA's latents and was not taught to read a memory; the "
            f"one in {memory_file} reads a dense model's keys. Connect the dense model, or one that "
            f"train-memory has taught (in Pocket Model: VideoMLA's, for Evolving Memory), or set memory to "
            f"ema or off."
        )


def _patch(model: Any, lora: Lora, path: Path) -> None:
    """Has the host add the LoRA to the MODEL's weights, wherever it keeps them."""
    patches = patches_of(lora)
    lost = set(patches) - set(model.add_patches(patches))
    if lost:
        raise ValueError(
            f"Evolving Memory: {len(lost)} of the {len(patches)} layers of the LoRA in {path.name} are not "
            f"in this model, such as {min(lost)}; connect the model that the memory was trained with."
        )


def _preset_of(file: MemoryFile) -> str:
    return "echo" if training_of(file.encoder.config).bounded_ids else "echo_std"
