"""The file of a trained memory: its encoder, and the low-rank changes of the model it was trained with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ...model_patches.checkpoints.files import save_tensors
from ...model_patches.checkpoints.nesting import MEMORY
from ...model_patches.checkpoints.sealed import CHECKSUM, EMPTY, seal
from ...model_patches.memory.encoder import MemoryEncoder
from ..held_out import History
from .lora import Adapters

LORA = "generator_lora."  # begins the keys of the changes


def export(
    encoder: MemoryEncoder,
    adapters: Adapters,
    path: Path,
    preset: str,
    trained: str,
    history: History | None = None,
) -> Path:
    """Write encoder and low-rank changes as half-precision safetensors, under the published names.

    history: of a memory for the pocket world, on which combinations it was trained.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    config = encoder.config
    about = {
        "frames": config.frames,
        "grid_height": config.grid_height,
        "grid_width": config.grid_width,
        "num_heads": config.num_heads,
        "alpha": adapters.alpha,
        "rank": adapters.rank,
        "preset": preset,
        "trained": trained,
        "sealed": True,  # published files and those of earlier releases have no checksum
    } | ({} if history is None else asdict(history))
    tensors = {LORA + key: value for key, value in adapters.peft().items()}
    tensors |= {MEMORY + key: value for key, value in encoder.state_dict().items()}
    halves = {key: value.detach().cpu().half().contiguous() for key, value in tensors.items()}
    save_tensors(halves, path, {"memory": json.dumps(about), CHECKSUM: EMPTY})
    seal(path)
    return path
