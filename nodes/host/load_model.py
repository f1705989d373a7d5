"""A published checkpoint as the host's MODEL: read and checked by the engine, loaded and kept by the host."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.sd
import torch

from ...model_patches.checkpoints.checkpoint import FUSED_ORDERS, Checkpoint, open_checkpoint
from ...model_patches.checkpoints.files import shapes_of
from ...model_patches.checkpoints.lora import Unfit
from ...model_patches.checkpoints.lora_file import LoraFile, read_lora
from .lora import MODEL, add_lora

WHERE = "Load Streaming Model"
DTYPES: dict[str, dict[str, Any]] = {  # as the host's own loader offers them
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


@dataclass(frozen=True, slots=True)
class Source:
    """Which weights of which file, and how the host is to keep them."""

    path: Path
    copy: str | None = None  # this and what follows but dtype: see `open_checkpoint`
    prefer: str | None = None
    dtype: str = "default"  # one of DTYPES
    bands: str | None = None
    order: str = FUSED_ORDERS[0]

    def open(self) -> Checkpoint:
        """The file, checked; refused in a sentence where it cannot be streamed."""
        choices = {"copy": self.copy, "prefer": self.prefer, "bands": self.bands, "order": self.order}
        return open_checkpoint(self.path, caller=WHERE, **choices)


def load(source: Source, disable_dynamic: bool = False) -> Any:
    """The host's ModelPatcher of a file; the host calls this again where it needs another one.

    disable_dynamic: the host's word for a patcher that keeps whole weights.
    """
    return patcher_of(source.open(), source, disable_dynamic)


def patcher_of(checkpoint: Checkpoint, source: Source, disable_dynamic: bool = False) -> Any:
    """The host's ModelPatcher of what was read, whose tensors are handed over: the host takes them out."""
    checkpoint.refuse_repetitions(WHERE)
    metadata = checkpoint.metadata_with_sizes()
    if checkpoint.mla is not None:
        from .mla import mla_metadata

        metadata = mla_metadata(metadata, checkpoint.mla.sizes)
    else:
        metadata = _causal(metadata)
    more = {"disable_dynamic": True} if disable_dynamic else {}
    model = comfy.sd.load_diffusion_model_state_dict(
        checkpoint.tensors, model_options=dict(DTYPES[source.dtype]), metadata=metadata, **more
    )
    if model is None:
        raise RuntimeError(
            f"{WHERE}: ComfyUI did not recognise {checkpoint.path.name}, which is {checkpoint.structure}. "
            f"Update ComfyUI, and Rivulet if that does not help."
        )
    model.cached_patcher_init = (load, (source,))
    return model


def _causal(metadata: Any) -> dict[str, str]:
    """The metadata with the word that makes the host's own block-wise sampler take the model too."""
    config = json.loads(metadata["config"])
    return {**metadata, "config": json.dumps({"transformer": {"causal_ar": True, **config["transformer"]}})}


def with_lora(model: Any, path: Path, strength: float) -> tuple[Any, LoraFile, Unfit]:
    """A clone of the MODEL that runs with a LoRA, what was read, and what of it has no place in the model.

    Raises ValueError where more than half of it has none, as of another model's LoRA.
    """
    file = read_lora(WHERE, path)
    if file.memory:
        raise ValueError(
            f"{WHERE}: {path.name} holds a memory beside its LoRA; choose it in Evolving Memory, which adds "
            f"both, and none here, or the LoRA would be added twice."
        )
    shapes = shapes_of(model.model.state_dict())
    own = {key.removeprefix(MODEL): shape for key, shape in shapes.items() if key.startswith(MODEL)}
    lora, unfit = file.lora.fitting(own)
    if 2 * unfit.changes > file.lora.changes:
        raise ValueError(
            f"{WHERE}: {path.name} is a LoRA of another model. Of its {file.lora.changes} changes {unfit}. "
            f"Choose the one that belongs to this checkpoint, or none."
        )
    clone = model.clone()
    add_lora(clone, lora, strength)
    return clone, replace(file, lora=lora), unfit
