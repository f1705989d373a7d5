"""Benchmark rows: one JSON object a line on stdout, every number with its unit in its name."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import torch

UNITS = (
    *("seconds", "ms", "bytes", "bytes_per_1000_blocks", "blocks", "frames", "latents", "steps", "layers"),
    *(
        "tokens",
        "cores",
        "threads",
        "samples",
        "ratio",
        "share",
        "fps",
        "db",
        "levels",
        "pixels",
        "tflop",
        "registers",
        "id",
        "seed",
        "bytes_per_token_layer",
        "error",  # relative: norm of the difference over norm of the truth
        "adherence",  # share of frames that show what the prompt says
        "recall",  # share of trials in which what was hidden came out as it went in
        "trials",
        "operators",
        "launches",
        "calls",
        "waits",
        "copies",
        "sides_per_picture",  # speed: of the picture's side, from one picture to the next
        "windows",  # lengths in windows of the preset
        "ms_per_1000_blocks",
        "streams",
        "reached",  # share of streams that came to show a new prompt
        "blocks_to_prompt",  # until they did
        *("jump", "jump_inside", "jump_border"),  # mean change of a pixel between two pictures, of 255 levels
    ),
)
WORDS = {
    "preset",
    "case",
    "weights",
    "stop",
    "why",
    "cpu",
    "gpu",
    "os",
    "torch",
    "python",
    "file",
    "prompt",
    "format",
    "model",
    "decoder",
    "dtype",
    "picture",
    "op",
    "target",
    "policy",
    "method",
    "span",
    "combinations",
    "held_out",
    "look",
    "memory",
    "mode",
    "date",
    "cuda",
    "driver",
    "triton",
}
CHECKS = {"quick", "ok"}


@dataclass
class Rows:
    """Prints the rows of one benchmark; `quick` marks each of them as a short run's."""

    bench: str
    quick: bool
    out: TextIO = field(default_factory=lambda: sys.stdout)

    def __call__(self, row: str, **fields: float | str | bool) -> None:
        """Prints one row. Refuses a name without a unit and a number that is none."""
        for name, value in fields.items():
            reason = why_not(name, value)
            if reason:
                raise ValueError(f"Bench {self.bench}, row {row}: {reason}")
        print(
            json.dumps({"bench": self.bench, "row": row, "quick": self.quick} | fields),
            file=self.out,
            flush=True,
        )


def why_not(name: str, value: object) -> str | None:
    """Returns a sentence if the field cannot stand in a row, else None."""
    if isinstance(value, bool):
        return (
            None
            if name in CHECKS or name.startswith(("is_", "has_"))
            else f"{name} is yes or no; call it is_..."
        )
    if isinstance(value, str):
        return None if name in WORDS else f"{name} is text and not one of {', '.join(sorted(WORDS))}"
    if not isinstance(value, int | float):
        return f"{name} is {type(value).__name__}; give a number, a text, or yes or no"
    if not math.isfinite(value):
        return f"{name} is {value}"
    unit = any(name == word or name.endswith(f"_{word}") for word in UNITS)
    return None if unit else f"{name} has no unit; end it in one of {', '.join(UNITS)}"


def machine() -> dict[str, str | int]:
    """Returns what the figures depend on: the machine, its GPU if there is one, versions, the day."""
    found: dict[str, str | int] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "os": platform.platform(terse=True),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    found["date"] = datetime.now(timezone.utc).date().isoformat()
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda or torch.version.hip)}
        found |= {"driver": driver(), "triton": version_of("triton")}
    return found


def driver() -> str:
    """Returns the version of NVIDIA's driver, where its file tells it."""
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text(encoding="ascii").split() if path.exists() else []
    numbers = [word for word in words if word[:1].isdigit() and word.count(".") >= 1]
    return numbers[0] if numbers else "unknown"


def version_of(package: str) -> str:
    """Returns the installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cpu_name() -> str:
    """Returns the processor's name as its maker gives it, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
