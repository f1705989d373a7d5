"""Whether streams are still the same bits: fingerprints of what the engine and ComfyUI's nodes make.

Bits are those of one machine, torch and ComfyUI; compare what the same ones made. A change of the streaming
code that is to change nothing is run against the fingerprints from before it. Scenarios are in
`bits_scenarios`, and how the code is called in `bits_engine` and `bits_host` alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import bits_engine, hosted
from .bits_scenarios import ENGINE, HOST, fingerprints
from .records import Rows

Prints = Mapping[str, Mapping[str, Any]]  # by the scenario's full name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--out", type=Path, help="write the fingerprints; those not made stay in the file")
    parser.add_argument("--against", type=Path, help="compare with such a file; exit 1 where one differs")
    parser.add_argument("--only", default="", help="scenarios with these letters in their names")
    parser.add_argument("--part", choices=(ENGINE, HOST), help="default both, without a ComfyUI the engine")
    named = os.environ.get("COMFYUI_PATH")
    folder = "folder of a ComfyUI; default $COMFYUI_PATH"
    parser.add_argument("--comfyui", type=Path, default=named and Path(named), help=folder)
    parser.add_argument("--python", help="the Python that this ComfyUI runs with")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when every stream was made, and is as it was where that is asked."""
    began = time.perf_counter()
    parts = parts_of(chosen)
    before = json.loads(chosen.against.read_text(encoding="utf-8")) if chosen.against else None
    made: dict[str, Any] = {}
    if ENGINE in parts:
        made |= fingerprints(ENGINE, bits_engine.stream, chosen.only, chosen.quick)
    if HOST in parts:
        made |= by_host(chosen)
    if not made:
        raise SystemExit(f"bench bits: no scenario of {' and '.join(parts)} has {chosen.only!r} in its name.")
    apart = faults(made)
    if before is not None:
        apart |= differences(before, made) | gone(before, made, parts, chosen)
    if chosen.out:
        write(chosen.out, made, keep=bool(chosen.only or chosen.quick))
    for name, why in apart.items():
        rows("difference", case=name, why=why)
    seconds = time.perf_counter() - began
    rows("result", made_streams=len(made), differing_streams=len(apart), seconds=seconds, ok=not apart)
    return 1 if apart else 0


def parts_of(chosen: argparse.Namespace) -> list[str]:
    """What is to make streams."""
    there = chosen.comfyui is not None and chosen.python is not None
    if chosen.part == HOST and not there:
        raise SystemExit(
            "bench bits: part host needs --comfyui FOLDER, and --python with ComfyUI's own Python."
        )
    return [chosen.part] if chosen.part else [ENGINE, HOST] if there else [ENGINE]


def by_host(chosen: argparse.Namespace) -> Prints:
    """Fingerprints that a process of ComfyUI's Python makes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "host.json"
        how = [str(chosen.comfyui.resolve()), str(out), chosen.only, "quick" if chosen.quick else "all"]
        command = hosted.command(chosen.python, "bits_host", *how)
        # what ComfyUI prints is no row
        subprocess.run(command, stdout=sys.stderr, check=True)
        return json.loads(out.read_text(encoding="utf-8"))


def faults(made: Prints) -> dict[str, str]:
    """Streams that could not be made, and why."""
    return {name: row["error"] for name, row in made.items() if "error" in row}


def differences(before: Prints, made: Prints) -> dict[str, str]:
    """How streams that were made differ from the recorded ones."""
    found = {name: difference(before.get(name), row) for name, row in made.items() if "error" not in row}
    return {name: why for name, why in found.items() if why}


def difference(before: Mapping[str, Any] | None, row: Mapping[str, Any]) -> str:
    """Where one stream differs first, "" where it is the same bits."""
    if before is None or "error" in before:
        return "it was not recorded"
    if before["latents"] != row["latents"]:
        pairs = zip(before["each"], row["each"], strict=False)
        same = next((i for i, (had, has) in enumerate(pairs) if had != has), None)
        if same is None:
            return f"it has {len(row['each'])} latent frames, had {len(before['each'])}"
        return f"latents from frame {same} of {len(row['each'])} on"
    if before["frames"] != row["frames"]:
        return f"it has {row['frames']} pictures, had {before['frames']}"
    return "" if before["pictures"] == row["pictures"] else "pictures alone, of the same latents"


def gone(before: Prints, made: Prints, parts: list[str], chosen: argparse.Namespace) -> dict[str, str]:
    """Recorded streams that were asked for and are no scenario any more."""
    asked = [] if chosen.quick else [name for name in before if chosen.only in name]
    return {
        name: "it is recorded, and there is no such scenario"
        for name in asked
        if name not in made and name.partition(":")[0] in parts
    }


def write(path: Path, made: Prints, keep: bool) -> None:
    """Writes the file; keep: with what else is in it."""
    old = json.loads(path.read_text(encoding="utf-8")) if keep and path.exists() else {}
    path.write_text(json.dumps(old | dict(made), indent=1) + "\n", encoding="utf-8")
