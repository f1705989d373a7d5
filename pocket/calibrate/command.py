"""The command: calibrate, print the trade-off as rows of JSON, write the basis."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ...model_patches.cache.basis_file import about_model, save_basis
from ...model_patches.cache.calibration.allocate import Point, mean_bytes
from ...model_patches.cache.calibration.calibrate import Calibration, Goal, calibrate, overall
from ...model_patches.cache.calibration.measure import layer_weights
from .subjects import pocket_subject, subject_blocks, wan_subject

RATIOS = (3, 4, 6, 8, 10, 12, 14, 16)  # of the rows, against keys and values of two bytes a number
DEFAULT_RATIO = 8


def calibrate_model(options: argparse.Namespace) -> int:
    """The exit status: 0, 130 after Ctrl+C, 2 where something cannot work."""
    try:
        _calibrate(options)
    except KeyboardInterrupt:
        print("calibrate: interrupted, nothing was written", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as why:
        print(f"calibrate: {why}", file=sys.stderr)
        return 2
    return 0


def _calibrate(options: argparse.Namespace) -> None:
    """Calibrate, print the rows, write the file."""
    _check_out(options.out)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    subject = wan_subject(options, device) if options.model else pocket_subject(options, device)
    last = subject.models[-1]
    channels, dtype = last.dit.dim, last.config.dtype
    if options.error is None:
        goal = Goal(token_bytes=4 * channels / DEFAULT_RATIO if options.bytes is None else options.bytes)
    else:
        goal = Goal(error=options.error)
    goal.check()
    prompts = tuple(subject.texts)
    calibration = calibrate(
        lambda recording, index: subject_blocks(subject, recording, prompts[index], index, options.blocks),
        prompts,
        lambda layer: layer_weights(last.dit.blocks[layer], channels, dtype, device),
        blocks=options.blocks,
        device=device,
        report=_report_progress,
    )
    print(file=sys.stderr)
    chosen = calibration.choose(goal)
    weights = [watched.dit for watched in subject.models]
    about = {"checkpoint": subject.name, **about_model(weights, channels, dtype, device)}
    basis = calibration.basis(chosen, about)
    if not options.no_rows:
        for ratio in RATIOS:
            _print_size(calibration, 4 * channels / ratio)
    _print_row("layers", _layers(chosen))
    _print_choice("basis", calibration, chosen, prompts=len(prompts), tokens=calibration.tokens)
    save_basis(basis, options.out)
    print(f"calibrate: wrote {options.out} ({options.out.stat().st_size:,} bytes)", file=sys.stderr)


def _check_out(path: Path) -> None:
    """Makes the file's folder; refuses a place that cannot be written to, before anything is calculated."""
    if path.suffix != ".safetensors" or path.is_dir():
        raise ValueError(f"--out must be a file that ends in .safetensors, got {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write into {path.parent}; choose a folder that may be written to.")


def _print_size(calibration: Calibration, token_bytes: float) -> None:
    """Rows of one size: as allocated, and the best that the same for every layer reaches with no more."""
    try:
        chosen = calibration.choose(Goal(token_bytes=token_bytes))
    except ValueError:
        return  # smaller than the smallest basis
    _print_choice("allocated", calibration, chosen)
    fitted = calibration.fitted
    offers = {(p.rank, p.wide): p for curve in fitted.curves for p in curve if p.bytes <= token_bytes}
    largest = sorted(offers.values(), key=lambda point: point.bytes)[-2:]
    same = [[point] * len(fitted.curves) for point in largest]
    if same:
        best = min(same, key=lambda points: overall(error.total for error in fitted.errors(points)))
        _print_choice("uniform", calibration, best)


def _print_choice(case: str, calibration: Calibration, points: Sequence[Point], **more: float) -> None:
    """One row: bytes, and errors of attention on prompts that were held out."""
    errors = calibration.fitted.errors(points)
    size = mean_bytes(points)
    dense = 4 * len(calibration.fitted.layers[0].basis.mu_C)
    _print_row(
        case,
        {
            "bytes_per_token_layer": size,
            "smaller_ratio": round(dense / size, 2),
            "attention_error_share": overall(error.total for error in errors),
            "worst_layer_share": overall([max(error.total for error in errors)]),
            "worst_head_share": overall([max(max(error.heads) for error in errors)]),
            **more,
        },
    )


def _layers(points: Sequence[Point]) -> dict[str, object]:
    """Rank, int8 channels and bytes of each layer."""
    names = ("rank", "wide", "bytes")
    return {name: [getattr(point, name) for point in points] for name in names}


def _print_row(case: str, fields: dict[str, object]) -> None:
    """Prints one row as JSON."""
    print(json.dumps({"calibrate": case, **fields}), flush=True)


def _report_progress(what: str, share: float) -> None:
    """Progress, on one line of stderr."""
    print(f"\rcalibrate: {100 * share:3.0f} % {what:<30}", end="", file=sys.stderr, flush=True)
