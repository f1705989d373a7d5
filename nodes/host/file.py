"""From which file the host loaded a model, and what its name says that its tensors do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model_patches.checkpoints.kinds import expert_warning


def file_of(patcher: Any) -> Path | None:
    """The file that the host's loader read; None where the loader does not tell."""
    made_from = getattr(patcher, "cached_patcher_init", None)
    arguments = made_from[1] if made_from else ()
    return Path(arguments[0]) if arguments and isinstance(arguments[0], str | Path) else None


def expert_of(model: Any) -> str | None:
    """A sentence if a MODEL's file is called like an expert of Wan 2.2's 14B, else None."""
    path = file_of(model)
    return None if path is None else expert_warning(path.name)
