"""Time and memory of loading a checkpoint of true sizes into ComfyUI, and whether a second copy is held."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...model_patches.arch.mla import MlaModel, MlaSizes
from ...model_patches.arch.wan import WanConfig, WanModel
from .records import Rows

FULL_LAYERS, QUICK_LAYERS = 30, 2
ROOM = 1.1  # times the weights that a load may take: buffers, and the model's own objects
CHILD = Path(__file__).with_name("load_once.py")
Tensors = dict[str, Tensor]


def add_arguments(options: argparse.ArgumentParser) -> None:
    """Adds what this benchmark can be told."""
    options.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI")
    options.add_argument("--python", required=True, help="the Python that this ComfyUI runs with")
    options.add_argument("--layers", type=int, help="of the 1.3B model; default 30, quick 2")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when every load holds the weights once."""
    layers = chosen.layers or (QUICK_LAYERS if chosen.quick else FULL_LAYERS)
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        for case, path in files(Path(folder), WanConfig(1536, 8960, layers)):
            for how in ("ours", "core") if case == "safetensors bfloat16" else ("ours",):
                ok &= judged(rows, case, how, path, once(chosen, path, how))
            path.unlink()
    return 0 if ok else 1


def judged(rows: Rows, case: str, how: str, path: Path, figures: dict[str, float]) -> bool:
    """Prints one load's row; returns whether the weights were held once."""
    single = max(figures["peak_bytes"], figures["after_bytes"]) <= ROOM * figures["weights_bytes"]
    about = {"file_bytes": path.stat().st_size, "is_held_once": single}
    rows("load", case=f"{case}, {how}", **about, **figures)
    # ComfyUI's own loader stands beside for comparison, it is not ours to fail
    return single or how == "core"


def once(chosen: argparse.Namespace, path: Path, how: str) -> dict[str, float]:
    """Loads in a new process."""
    command = [chosen.python, str(CHILD), str(chosen.comfyui.resolve()), str(path), how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Bench load: {path.name} could not be loaded: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def files(folder: Path, config: WanConfig) -> Iterator[tuple[str, Path]]:
    """Yields (case, file) of random weights: flat in half precision, nested in float32, VideoMLA's layers."""
    with torch.device("meta"):
        dense, latent = WanModel(config).state_dict(), MlaModel(config, MlaSizes()).state_dict()
    cases: dict[str, tuple[Tensors, torch.dtype, Callable[[Tensors, Path], object]]] = {
        "safetensors bfloat16": (dense, torch.bfloat16, save_file),
        "pt float32 nested": (dense, torch.float32, _save_nested),
        "pt float32 videomla": (latent, torch.float32, _save_nested),
    }
    for case, (state, dtype, save) in cases.items():
        path = folder / f"model.{'safetensors' if case.startswith('safe') else 'pt'}"
        generator = torch.Generator().manual_seed(0)
        weights = {
            k: torch.empty(v.shape, dtype=dtype).normal_(generator=generator) for k, v in state.items()
        }
        save(weights, path)
        del weights  # before the load, which is to be alone with its memory
        yield case, path


def _save_nested(weights: Tensors, path: Path) -> None:
    torch.save({"generator": {f"model.{key}": value for key, value in weights.items()}}, path)
