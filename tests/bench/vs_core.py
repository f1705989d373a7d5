"""ComfyUI's own autoregressive nodes beside Stream Video: the same files, seed and noise levels, in turns.

What a user has without this pack is EmptyARVideoLatent, SamplerARVideo and VAEDecode; with CreateVideo it
becomes a file. Each contender has a process of its own, so that a peak of memory is its own. Weights are
random, so only times and bytes mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from safetensors.torch import save_file

from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.geometry import Geometry
from ...model_patches.vae.wan import WanVAE
from .hosted import command
from .load_once import run_file
from .memory_cost import in_turns
from .records import Rows

Figures = dict[str, float]
CORE, OURS = "core", "ours"
SEED, STEPS, BLOCK_FRAMES, FPS = 7, 4, 3, 16.0
WARM_LATENTS = 6  # a video of so many is made before anything is timed


@dataclass(frozen=True, slots=True)
class Size:
    """A model and a picture, and how long and how often they are measured."""

    config: WanConfig
    geometry: Geometry
    vae_dim: int  # 96 is Wan's; both decode with the host's layers, so a small one shows the sampling
    text_tokens: int
    latents: tuple[int, ...]
    quick_latents: tuple[int, ...]
    rounds: int


SIZES = {
    # the pocket model's sizes: what a call costs beside its products
    "tiny": Size(
        WanConfig(256, 768, 4, num_heads=2, text_dim=64), Geometry(64, 64), 4, 16, (21, 81, 241), (21, 81), 3
    ),
    # one layer of Wan 1.3B: what the past costs
    "wide": Size(WanConfig(1536, 8960, 1, text_dim=64), Geometry(288, 288), 4, 512, (21, 81), (6,), 1),
    # for a GPU
    "1.3B": Size(WanConfig(1536, 8960, 30), Geometry(832, 480), 96, 512, (21, 81), (21,), 2),
}


def add_arguments(options: argparse.ArgumentParser) -> None:
    """Adds what this benchmark can be told."""
    named = os.environ.get("COMFYUI_PATH")
    folder = "folder of a ComfyUI; default $COMFYUI_PATH"
    options.add_argument("--comfyui", type=Path, default=named and Path(named), help=folder)
    options.add_argument("--python", help="the Python that this ComfyUI runs with; default the one in it")
    options.add_argument("--size", choices=SIZES, action="append", help="default tiny and wide, quick tiny")
    options.add_argument("--latents", type=int, action="append", help="lengths; default by size")
    options.add_argument("--rounds", type=int, help="videos of each length; default by size, quick 1")
    options.add_argument("--threads", type=int, help="of each contender; default torch's, quick 1")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0; 2 without a ComfyUI that can be started."""
    run_py = run_file()
    if chosen.comfyui is None:
        print("bench vs-core: give --comfyui, the folder of a ComfyUI.", file=sys.stderr)
        return 2
    try:
        comfyui = run_py.comfyui_folder(chosen.comfyui)
        python = run_py.comfyui_python(comfyui, chosen.python)
    except run_py.StopError as why:
        print(f"bench vs-core: {why}", file=sys.stderr)
        return 2
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    for name in chosen.size or (["tiny"] if chosen.quick else ["tiny", "wide"]):
        size = SIZES[name]
        lengths = chosen.latents or (size.quick_latents if chosen.quick else size.latents)
        rounds = chosen.rounds or (1 if chosen.quick else size.rounds)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as ended:
            write(Path(folder), size)
            contenders = {
                who: ended.enter_context(
                    Contender(who, command(python, "vs_core_once", str(comfyui), folder, who))
                )
                for who in (CORE, OURS)
            }
            compare(rows, name, size, {who: each.make for who, each in contenders.items()}, lengths, rounds)
    return 0


def write(folder: Path, size: Size) -> None:
    """Writes the files that both contenders load, and the settings of both."""
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    sizes, geometry = size.config, size.geometry
    config = {"causal_ar": True, "text_dim": sizes.text_dim, "num_heads": sizes.num_heads}
    dit = WanModel(sizes).to(torch.bfloat16 if on_gpu else torch.float32).state_dict()
    save_file(dit, folder / "model.safetensors", {"config": json.dumps({"transformer": config})})
    save_file(WanVAE(size.vae_dim).state_dict(), folder / "vae.safetensors")
    settings = {"width": geometry.width, "height": geometry.height, "fps": FPS, "seed": SEED, "steps": STEPS}
    settings |= {"block_frames": BLOCK_FRAMES, "threads": torch.get_num_threads()}
    settings |= {"text_tokens": size.text_tokens, "text_dim": sizes.text_dim}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


class Contender:
    """A process that makes a video for every length it is sent: `with Contender(...):`."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name, self.command = name, command

    def __enter__(self) -> Contender:
        self._said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin
        if kind is not None:
            self.process.kill()
        self.process.stdin.close()
        self.process.wait()
        self._said.close()

    def make(self, latents: int) -> Figures:
        """What a video of so many latents took; RuntimeError with the end of what the process said."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(f"{latents}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._said.seek(0)
            raise RuntimeError(
                f"Bench vs-core: {self.name} made no video of {latents} latents: {self._said.read()[-2000:]}"
            )
        return json.loads(answer)


def compare(
    rows: Rows,
    name: str,
    size: Size,
    makers: dict[str, Callable[[int], Figures]],
    lengths: Sequence[int],
    rounds: int,
) -> None:
    """Prints what each contender took for videos of these lengths, shortest first, and their ratios."""
    for make in makers.values():
        make(WARM_LATENTS)
    about = {"model": name, "frame_tokens": size.geometry.frame_tokens}
    for latents in sorted(lengths):
        taken = in_turns({who: partial(make, latents) for who, make in makers.items()}, rounds)
        middle = {who: medians(each) for who, each in taken.items()}
        for who, figures in middle.items():
            rows("video", case=who, **about, latents=latents, rounds_samples=rounds, **figures)
        pairs = list(zip(taken[CORE], taken[OURS], strict=True))
        rows("ratio", **about, latents=latents, rounds_samples=rounds, **ratios(pairs))


def medians(found: list[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def ratios(pairs: Sequence[tuple[Figures, Figures]]) -> Figures:
    """Core's figures over ours, medians over pairs.

    speed: core's three nodes, whose pictures are in memory, over our file. to_file: with core's file.
    processor: in the processor's time, which a busy machine stretches less. sampling: without decoding.
    """
    over = {
        "speed": lambda core, ours: core["decoded_seconds"] / ours["seconds"],
        "to_file": lambda core, ours: core["seconds"] / ours["seconds"],
        "sampling": lambda core, ours: core["sampling_seconds"] / ours["sampling_seconds"],
        "sampling_processor": lambda core, ours: (
            core["sampling_processor_seconds"] / ours["sampling_processor_seconds"]
        ),
        "processor": lambda core, ours: core["processor_seconds"] / ours["processor_seconds"],
        "first_picture": lambda core, ours: core["first_seconds"] / ours["first_seconds"],
        "peak": lambda core, ours: core["peak_bytes"] / ours["peak_bytes"],
    }
    found = {name: [of(core, ours) for core, ours in pairs] for name, of in over.items()}
    return {f"{name}_ratio": statistics.median(each) for name, each in found.items()}
