"""`python run.py soak --faults`: takes that are struck over and over, and gone on with until they are whole.

Errors and interrupts inside random operations, kill -9, a dead or halting encoder, lost power, a full disk, a
full card, damaged files. Every picture is compared, before it is encoded, with that of a take that nothing
disturbed; no frame that a snapshot covers may be lost. A part of the faults strikes takes that Stream Video
makes in ComfyUI.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from .hosted import command
from .records import Rows, machine
from .soak_faults_engine import Engine
from .soak_faults_rows import complain, together, told
from .soak_faults_trials import Trials

FAULTS, QUICK_FAULTS = 400, 8  # of the engine's takes
HOST_FAULTS, QUICK_HOST_FAULTS = 120, 4
NO_HOST = "no ComfyUI was found, so none of its takes was struck; set COMFYUI_PATH, or give --comfyui"


def read(arguments: list[str]) -> argparse.Namespace:
    """Returns the options, their defaults filled in."""
    parser = argparse.ArgumentParser(prog="run.py soak --faults", description=__doc__)
    number = f"of the engine's takes; default {FAULTS}, quick {QUICK_FAULTS}"
    parser.add_argument("--faults", type=int, nargs="?", const=None, help=number)
    number = f"of takes in ComfyUI; default {HOST_FAULTS}, quick {QUICK_HOST_FAULTS}"
    parser.add_argument("--host-faults", type=int, help=number)
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores; rows are marked")
    parser.add_argument("--seed", type=int, default=0, help="of the faults; when a kill comes is not in it")
    parser.add_argument("--folder", type=Path, help="where takes lie; those that went wrong stay there")
    where = os.environ.get("COMFYUI_PATH")
    parser.add_argument("--comfyui", type=Path, default=where and Path(where), help="folder of a ComfyUI")
    parser.add_argument("--python", help="the Python that this ComfyUI runs with; default: this one")
    chosen = parser.parse_args(arguments)
    if not hasattr(os, "fork") or not Path("/proc/self/stat").exists():
        parser.error("--faults needs Linux: each go is a child, and its encoder is found in /proc")
    if chosen.faults is None:
        chosen.faults = QUICK_FAULTS if chosen.quick else FAULTS
    if chosen.host_faults is None:
        chosen.host_faults = QUICK_HOST_FAULTS if chosen.quick else HOST_FAULTS
    return chosen


def main(arguments: list[str]) -> int:
    """Returns 0 when every take became whole and no picture was another or lost."""
    chosen = read(arguments)
    torch.set_num_threads(1)  # a child has the thread that forked it, and no other
    rows = Rows("soak faults", chosen.quick)
    rows("machine", **machine())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rivulet-soak-") as made:
        folder = chosen.folder or Path(made)
        host = start_host(chosen, folder / "comfyui")
        try:
            trials = Trials(Engine(), folder / "engine", chosen.seed, complain)
            trials.run(chosen.faults)
            parts = [told(trials, rows)]
            parts += [] if host is None else [rest_of(host)]
        finally:
            if host is not None:
                host.kill()
                host.wait()
    ok = all(part["ok"] for part in parts)
    if host is None and chosen.host_faults:
        complain(NO_HOST)
        ok &= os.environ.get("RIVULET_REQUIRE_COMFYUI") != "1"
    rows("result", seconds=time.perf_counter() - began, **together(parts), ok=ok)
    return 0 if ok else 1


def start_host(chosen: argparse.Namespace, folder: Path) -> subprocess.Popen[str] | None:
    """The process that makes and strikes takes in ComfyUI beside this one; None where there is no ComfyUI."""
    if not chosen.host_faults or not chosen.comfyui:
        return None
    given = str(chosen.comfyui.resolve()), str(folder), str(chosen.seed), str(chosen.host_faults)
    how_many = "quick" if chosen.quick else "all"
    started = command(chosen.python or sys.executable, "soak_faults_host", *given, how_many)
    return subprocess.Popen(started, stdout=subprocess.PIPE, text=True)


def rest_of(host: subprocess.Popen[str]) -> dict[str, Any]:
    """Prints the rows of the process in ComfyUI; returns its last one."""
    assert host.stdout is not None
    row: dict[str, Any] = {"row": "", "ok": False}
    for line in host.stdout:
        if line.startswith("{"):
            print(line, end="", flush=True)
            row = json.loads(line)
    if host.wait() and row["row"] != "part":
        raise RuntimeError("Soak: the process in ComfyUI ended before its takes; what it said is above.")
    return row
