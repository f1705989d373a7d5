"""From which file the host loaded a model, what that file is, and what its name says beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model_patches.checkpoints.checkpoint import open_checkpoint
from ...model_patches.checkpoints.wan22 import expert_warning
from .load_model import WHERE, Source


def file_of(patcher: Any) -> Path | None:
    """The file that a loader read, the host's or this pack's; None where the loader does not say."""
    init_call = getattr(patcher, "cached_patcher_init", None)
    first = init_call[1][0] if init_call and init_call[1] else None
    if isinstance(first, Source):
        return first.path
    return Path(first) if isinstance(first, str | Path) else None


def expert_of(model: Any) -> str | None:
    """A sentence if a MODEL's file is called like an expert of Wan 2.2's 14B, else None."""
    path = file_of(model)
    return None if path is None else expert_warning(path.name)


def report_of(model: Any) -> dict[str, str]:
    """What a MODEL's file is and which recipe goes with it; {} where the loader does not name the file."""
    path = file_of(model)
    if path is None:
        return {}
    try:
        checkpoint = open_checkpoint(path, caller=WHERE)
        recipe = "stands in the model's file"
        if "recipe" not in checkpoint.metadata:
            choice = checkpoint.recipe(file="/".join(path.parts[-2:]))  # as published, folder and file
            recipe = f"{choice.recipe.name}. {choice.why}"
        report = {"Model's file": f"{path.name}: {checkpoint.structure}", "Recipe": recipe}
    except (OSError, ValueError) as why:
        report = {"Model's file": f"{path.name}, which Load Streaming Model does not take: {why}"}
    if warning := expert_warning(path.name):
        report["Caution"] = warning
    return report
