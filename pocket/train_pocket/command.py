"""The command: one stage after the other, each going on from what is in the folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ...model_patches.sampler.schedule import sigmas
from .. import models, world
from . import distributed
from .begin import refuse_other_files
from .dit import PocketTraining
from .presets import PRESETS, Preset
from .record import begin_or_go_on
from .stages import draw_lit, export, load_or_train_vae, polish, train_dit, tune_encoder

FASTEST = 0.05  # sides of the picture per frame: an object crosses the picture within one block and a half


def train(chosen: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    preset = PRESETS[chosen.preset]
    folder = chosen.run or models.RUNS / chosen.preset
    device = torch.device(chosen.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        if chosen.start is not None:
            refuse_other_files(preset, chosen.preset, chosen.start)
        begin_or_go_on(folder, {"preset": chosen.preset})
        return _train(chosen, preset, folder, device)
    except (ValueError, OSError) as error:
        print(f"train-pocket: {error}", file=sys.stderr)
        return 2


def _train(chosen: argparse.Namespace, preset: Preset, folder: Path, device: torch.device) -> int:
    if chosen.only == "apart":
        if chosen.start is None:
            raise SystemExit(
                "train-pocket --only apart tunes a trained encoder: name its folder with --start."
            )
        tune_encoder(preset, folder, device, chosen.start)
        return 0
    out = chosen.out or folder / "export"
    vae = load_or_train_vae(preset, folder, device, chosen.start, train=chosen.only in (None, "vae"))
    if chosen.only in (None, "dit"):
        changes = recipe_changes(chosen, preset.recipe, preset.timesteps)
        if chosen.processes > 1 and not distributed.is_worker():
            status = distributed.run_workers(chosen.processes, distributed.same_command("--only", "dit"))
            if status:
                return status
        else:
            with distributed.process_group():
                train_dit(preset, vae, folder, device, chosen.start, chosen.compile, changes)
    if chosen.only in (None, "polish"):
        vae = polish(preset, vae, folder, device, fresh=chosen.start is None)
    if chosen.only in (None, "lit"):
        steps = chosen.steps if chosen.only else None
        print(draw_lit(preset, vae, folder, device, out, chosen.start, steps))
    if chosen.only in (None, "export"):
        for path in export(preset, chosen.preset, vae, folder, out, chosen.start):
            print(path)
    return 0


def recipe_changes(
    chosen: argparse.Namespace, recipe: PocketTraining, timesteps: tuple[float, ...]
) -> dict[str, object]:
    """Fields of the transformer's training that the options change; timesteps: of its sampler."""
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
    if beginnings:  # of a model that is finished otherwise: it predicts contexts from the first step on
        changes |= {"beginnings": beginnings, "predicted_context_from": 0.0}
    if chosen.sampled:
        if not 0 < chosen.sampled <= 1:
            raise SystemExit(f"train-pocket --sampled {chosen.sampled}: a share of the steps, 0 to 1.")
        changes |= {"sampled": chosen.sampled, "levels": sigmas(timesteps, recipe.shift)}
        changes["predicted_context_from"] = 0.0
    changes |= _motion_changes(chosen)
    if chosen.shift is not None:
        if not chosen.shift > 0:
            raise SystemExit(f"train-pocket --shift {chosen.shift}: more than 0.")
        changes["shift"] = chosen.shift
    for name in ("matrix_rate", "other_rate", "text_rate"):
        changes[name] = rate * getattr(recipe, name)
    return changes


def _motion_changes(chosen: argparse.Namespace) -> dict[str, object]:
    """Fields that the options on how things move change."""
    changes: dict[str, object] = {}
    if chosen.paced:
        if not 0 < chosen.paced < 1:
            raise SystemExit(f"train-pocket --paced {chosen.paced}: a share of the blocks, 0 to below 1.")
        changes["paced"] = chosen.paced
    if chosen.speeds is not None:
        low, high = chosen.speeds
        if not 0 < low <= high <= FASTEST:
            raise SystemExit(
                f"train-pocket --speeds {low} {high}: sides of the picture per frame, the lowest first, more "
                f"than 0, at most {FASTEST}; the world has {world.SPEED[0]} to {world.SPEED[1]}."
            )
        changes["speeds"] = (low, high)
    if chosen.keep_attention:
        changes["keep_attention"] = True
    return changes
