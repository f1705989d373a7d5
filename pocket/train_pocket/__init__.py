"""Trains the pocket models: `python run.py train-pocket --preset nano|small`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dit import PocketTraining

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Train, or go on training, VAE and transformer of a preset, and export them. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py train-pocket", description=__doc__)
    parser.add_argument("--preset", choices=("nano", "small"), default="nano")
    parser.add_argument(
        "--run", type=Path, help="folder of checkpoints and logs; default pocket/runs/<preset>"
    )
    parser.add_argument("--out", type=Path, help="folder of the exported files; default <run>/export")
    parser.add_argument("--device", default=None, help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all")
    parser.add_argument(
        "--only", choices=("vae", "apart", "dit", "polish", "export"), help="one part of the training"
    )
    parser.add_argument(
        "--start", type=Path, help="folder of exported files to train on, such as pocket/weights"
    )
    parser.add_argument("--steps", type=int, help="steps of the transformer, in place of the preset's")
    parser.add_argument(
        "--beginnings",
        type=float,
        help="share of those steps on streams' first blocks alone, to tune a finished transformer; default 0",
    )
    parser.add_argument("--rate", type=float, help="times the preset's learning rates; default 1")
    parser.add_argument(
        "--shift", type=float, help="of the noise levels trained on: less is more of little noise; default 8"
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the transformer's blocks: 1.8x on a CPU"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="train the transformer in so many processes of one thread: on two cores, two beat one of two",
    )
    chosen = parser.parse_args(arguments)
    return _train(chosen)


def _train(chosen: argparse.Namespace) -> int:
    import torch

    from . import distributed as processes
    from .presets import PRESETS
    from .stages import export, polished, settle_told_apart, settled_vae, train_dit

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    preset = PRESETS[chosen.preset]
    folder = chosen.run or ROOT / "runs" / chosen.preset
    device = torch.device(chosen.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.only == "apart":
        if chosen.start is None:
            raise SystemExit(
                "train-pocket --only apart tunes a trained encoder: name its folder with --start."
            )
        settle_told_apart(preset, folder, device, chosen.start)
        return 0
    vae = settled_vae(preset, folder, device, chosen.start, train=chosen.only in (None, "vae"))
    if chosen.only in (None, "dit"):
        changes = _changes(chosen, preset.recipe)
        if chosen.processes > 1 and not processes.is_worker():
            status = processes.run_workers(chosen.processes, processes.again("--only", "dit"))
            if status:
                return status
        else:
            with processes.together():
                train_dit(preset, vae, folder, device, chosen.start, chosen.compile, changes)
    if chosen.only in (None, "polish"):
        vae = polished(preset, vae, folder, device, train=True, afresh=chosen.start is None)
    if chosen.only in (None, "export"):
        for path in export(preset, chosen.preset, vae, folder, chosen.out or folder / "export", chosen.start):
            print(path)
    return 0


def _changes(chosen: argparse.Namespace, recipe: PocketTraining) -> dict[str, object]:
    """What the transformer's training is told beside the preset."""
    beginnings, rate = chosen.beginnings or 0.0, 1.0 if chosen.rate is None else chosen.rate
    if not 0 <= beginnings < 1:
        raise SystemExit(
            f"train-pocket --beginnings {beginnings}: a share of the steps, at least 0, below 1."
        )
    if not 0 < rate <= 10:
        raise SystemExit(f"train-pocket --rate {rate}: times the preset's rates, more than 0, at most 10.")
    changes: dict[str, object] = {
        "steps": chosen.steps or recipe.steps,
        "batch": recipe.batch // chosen.processes,
        "more_clips": recipe.more_clips // chosen.processes,
    }
    if beginnings:  # of a model that is finished otherwise: contexts are its own from the first step on
        changes |= {"beginnings": beginnings, "own_context_from": 0.0}
    if chosen.shift is not None:
        if not chosen.shift > 0:
            raise SystemExit(f"train-pocket --shift {chosen.shift}: more than 0.")
        changes["shift"] = chosen.shift
    for name in ("matrix_rate", "other_rate", "text_rate"):
        changes[name] = rate * getattr(recipe, name)
    return changes
