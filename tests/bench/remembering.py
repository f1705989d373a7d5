"""What a pocket stream remembers with, for benches: they end with a sentence where that cannot be."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...model_patches.geometry import Geometry
from ...model_patches.memory.policies import POLICIES
from ...model_patches.memory.policy import MemoryPolicy
from ...pocket import choices
from ...pocket.models import MEMORY_FILE, WEIGHTS, Pocket

MEMORIES = tuple(reversed(POLICIES))  # off first: the others are compared with it


def add_memory_file(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the file of a memory that is built from one."""
    names = ", ".join(kind.name for kind in POLICIES.values() if kind.files)
    parser.add_argument("--memory-file", type=Path, help=f"of {names}; default {MEMORY_FILE}, built in")


def remembering(
    pocket: Pocket, name: str, path: Path | None = None, geometry: Geometry | None = None
) -> tuple[Pocket, MemoryPolicy]:
    """See `pocket.choices.remembering`; ends the program where it refuses."""
    path = WEIGHTS / MEMORY_FILE if path is None else path
    if POLICIES[name].files and not path.exists():
        raise SystemExit(
            f"bench: memory {name} needs a trained file, and there is none at {path}; give one with "
            f"--memory-file, or measure off and ema."
        )
    try:
        return choices.remembering(pocket, name, path, geometry)
    except ValueError as error:
        raise SystemExit(f"bench: {error}") from error
