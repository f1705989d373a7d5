"""`python run.py calibrate`: learns in which basis a model's cache can be kept small; writes it to a file.

Without arguments it calibrates the built-in model. Another Wan 2.1 checkpoint needs encoded prompts beside
it: a safetensors file whose keys are the prompts and whose tensors [tokens, text_dim], or [1, tokens,
text_dim], are what its text encoder makes of them; the empty prompt is the negative one. Rows of the
trade-off go to stdout as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...model_patches.cache.calibration.allocate import Point
    from ...model_patches.cache.calibration.calibrate import Calibration
    from ...model_patches.stream.state import StreamConfig

RATIOS = (3, 4, 6, 8, 10, 12, 14, 16)  # of the rows, against keys and values of two bytes a number
DEFAULT_RATIO = 8
POCKET_PROMPTS = 12
POCKET_SEED = 7_000_000  # of the scenes; training and benchmarks draw from others


@dataclass(frozen=True)
class Subject:
    """A model and what it is to be watched on."""

    name: str
    dit: nn.Module
    config: StreamConfig  # its seed is the first prompt's, the others count on
    texts: dict[str, Tensor]  # prompt -> [1, L, E]
    negative: Tensor | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 130 after Ctrl+C, 2 where something cannot work."""
    options = parser().parse_args(arguments)
    try:
        run(options)
    except KeyboardInterrupt:
        print("calibrate: interrupted, nothing was written", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as why:
        print(f"calibrate: {why}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the options."""
    options = argparse.ArgumentParser(
        prog="run.py calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--model", type=Path, metavar="FILE", help="a causal Wan 2.1 checkpoint; default: built-in"
    )
    options.add_argument("--out", type=Path, default=Path("out/basis.safetensors"), metavar="FILE")
    goal = options.add_mutually_exclusive_group()
    goal.add_argument(
        "--bytes", type=float, metavar="N", help="kept per token and layer, on average; default: an eighth"
    )
    goal.add_argument("--error", type=float, metavar="E", help="of attention's output, for instance 0.02")
    options.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line")
    options.add_argument("--texts", type=Path, metavar="FILE", help="encoded prompts, with --model")
    options.add_argument("--blocks", type=int, default=8, help="of each stream; default 8")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default=None, help="default: cuda where there is one, else cpu")
    options.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    options.add_argument("--size", default="832x480", metavar="WxH", help="pixels, with --model")
    options.add_argument("--preset", default="infinity_rope", help="which frames a block sees, with --model")
    options.add_argument("--block-frames", type=int, default=3, help="latent frames, with --model")
    options.add_argument("--cfg", type=float, default=1.0, help="guidance, with --model")
    options.add_argument("--no-rows", action="store_true", help="write the file, leave out the other sizes")
    return options


def run(options: argparse.Namespace) -> None:
    """Calibrate, print the rows, write the file."""
    import torch

    from ...model_patches.cache.basis_file import about_model, save_basis
    from ...model_patches.cache.calibration.calibrate import Goal, calibrate
    from ...model_patches.cache.calibration.measure import layer_weights

    check_out(options.out)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    subject = wan_subject(options, device) if options.model else pocket_subject(options, device)
    channels, dtype = subject.dit.dim, subject.config.dtype
    if options.error is None:
        goal = Goal(token_bytes=4 * channels / DEFAULT_RATIO if options.bytes is None else options.bytes)
    else:
        goal = Goal(error=options.error)
    goal.check()
    prompts = tuple(subject.texts)
    made = calibrate(
        lambda recording, index: blocks(subject, recording, prompts[index], index, options.blocks),
        prompts,
        lambda layer: layer_weights(subject.dit.blocks[layer], channels, dtype, device),
        blocks=options.blocks,
        device=device,
        report=say,
    )
    print(file=sys.stderr)
    chosen = made.choose(goal)
    about = {"checkpoint": subject.name, **about_model(subject.dit, channels, dtype, device)}
    basis = made.basis(chosen, about)
    if not options.no_rows:
        for ratio in RATIOS:
            curve_row(made, 4 * channels / ratio)
    row("layers", layers(chosen))
    tell("basis", made, chosen, prompts=len(prompts), tokens=made.tokens)
    save_basis(basis, options.out)
    print(f"calibrate: wrote {options.out} ({options.out.stat().st_size:,} bytes)", file=sys.stderr)


def check_out(path: Path) -> None:
    """Makes the file's folder; refuses a place that cannot be written to, before anything is calculated."""
    if path.suffix != ".safetensors" or path.is_dir():
        raise ValueError(f"--out must be a file that ends in .safetensors, got {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write into {path.parent}; choose a folder that may be written to.")


def pocket_subject(options: argparse.Namespace, device: object) -> Subject:
    """The built-in model, on prompts of its world."""
    import torch

    from .. import world
    from ..models import DIT_FILE, load_pocket

    pocket = load_pocket()
    draw = torch.Generator().manual_seed(POCKET_SEED)
    scenes = world.sample_scenes(2 * POCKET_PROMPTS, draw, band_share=0.0)
    drawn = list(dict.fromkeys(scenes.prompts()))[:POCKET_PROMPTS]
    prompts = read_prompts(options.prompts) if options.prompts else drawn
    config = pocket.config(options.seed)
    texts = {prompt: pocket.encode(prompt).to(device) for prompt in prompts}
    negative = pocket.no_text().to(device) if config.guided else None
    return Subject(DIT_FILE, pocket.dit.to(device), config, texts, negative)


def wan_subject(options: argparse.Namespace, device: object) -> Subject:
    """A checkpoint file, on encoded prompts."""
    import torch

    from ...model_patches.checkpoints.checkpoint import open_checkpoint
    from ...model_patches.checkpoints.files import open_tensors, shapes_in
    from ...model_patches.geometry import Geometry
    from ...model_patches.stream.step import StreamConfig

    if options.texts is None:
        raise ValueError("--model needs --texts, a file of encoded prompts; `--help` says what it holds.")
    dtype = getattr(torch, options.dtype)
    with open_tensors("calibrate", options.texts, "a .safetensors file of encoded prompts") as file:
        texts = {prompt: file.get_tensor(prompt).to(device, dtype) for prompt in shapes_in(file)}
    texts = {prompt: text if text.ndim == 3 else text[None] for prompt, text in texts.items()}
    negative = texts.pop("", None)
    if options.prompts:
        texts = chosen_texts(texts, read_prompts(options.prompts))
    width, _, height = options.size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ValueError(f"--size must be WIDTHxHEIGHT in pixels, such as 832x480, got {options.size!r}.")
    config = StreamConfig(
        Geometry(int(width), int(height)),
        options.preset,
        options.block_frames,
        cfg=options.cfg,
        seed=options.seed,
        dtype=dtype,
    )
    dit = open_checkpoint(options.model, caller="calibrate").load(dtype, device)
    return Subject(options.model.name, dit, config, texts, negative if config.guided else None)


def read_prompts(path: Path) -> list[str]:
    """Prompts of a text file, one a line; empty lines are passed over, doubles count once."""
    if not path.is_file():
        raise ValueError(f"no file at {path}; --prompts takes a text file with one prompt a line.")
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def chosen_texts(texts: dict[str, Tensor], prompts: Sequence[str]) -> dict[str, Tensor]:
    """The texts of these prompts."""
    absent = [prompt for prompt in prompts if prompt not in texts]
    if absent:
        raise ValueError(
            f"--prompts names {len(absent)} prompts that --texts does not hold, the first is {absent[0]!r}; "
            f"encode them, or leave --prompts out."
        )
    return {prompt: texts[prompt] for prompt in prompts}


def blocks(subject: Subject, recording: object, prompt: str, index: int, count: int) -> Iterator[None]:
    """Makes the blocks of one stream in the calibration's format, one an item."""
    from dataclasses import replace

    from ...model_patches.stream.step import init, take

    config = replace(subject.config, seed=subject.config.seed + index)
    state = init(subject.dit, subject.texts[prompt], config, subject.negative, cache=recording)
    for _ in take(subject.dit, state, count):
        yield


def curve_row(made: Calibration, token_bytes: float) -> None:
    """Rows of one size: as allocated, and the best that the same for every layer reaches with no more."""
    from ...model_patches.cache.calibration.calibrate import Goal, overall

    try:
        chosen = made.choose(Goal(token_bytes=token_bytes))
    except ValueError:
        return  # smaller than the smallest basis
    tell("allocated", made, chosen)
    offers = {(p.rank, p.wide): p for curve in made.fitted.curves for p in curve if p.bytes <= token_bytes}
    largest = sorted(offers.values(), key=lambda point: point.bytes)[-2:]
    same = [[point] * len(made.fitted.curves) for point in largest]
    if same:
        best = min(same, key=lambda points: overall(error.total for error in made.fitted.errors(points)))
        tell("uniform", made, best)


def tell(case: str, made: Calibration, points: Sequence[Point], **more: float) -> None:
    """One row: bytes, and errors of attention on prompts that were held out."""
    from ...model_patches.cache.calibration.allocate import mean_bytes
    from ...model_patches.cache.calibration.calibrate import overall

    errors = made.fitted.errors(points)
    size = mean_bytes(points)
    dense = 4 * len(made.fitted.layers[0].basis.mu_C)
    row(
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


def layers(points: Sequence[Point]) -> dict[str, object]:
    """What each layer was given."""
    names = ("rank", "wide", "bytes")
    return {name: [getattr(point, name) for point in points] for name in names}


def row(case: str, fields: dict[str, object]) -> None:
    """Prints one row as JSON."""
    print(json.dumps({"calibrate": case, **fields}), flush=True)


def say(what: str, share: float) -> None:
    """Tells the person at the keyboard how far it is."""
    print(f"\rcalibrate: {100 * share:3.0f} % {what:<30}", end="", file=sys.stderr, flush=True)
