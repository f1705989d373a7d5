"""What is calibrated: a model and the streams it is watched on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.cache.format import CacheFormat
from ...model_patches.checkpoints.checkpoint import open_checkpoint
from ...model_patches.checkpoints.files import open_tensors, shapes_in
from ...model_patches.geometry import Geometry
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import ModelCaller, texts
from ...model_patches.stream.step import init, rollout
from .. import world
from ..choices import remembering
from ..models import DIT_FILE, load_pocket

POCKET_PROMPTS = 12  # of each model
POCKET_SEED = 7_000_000  # of the scenes; training and benchmarks draw from others


@dataclass(frozen=True, slots=True)
class Watched:
    """Weights, and how they are streamed with."""

    dit: nn.Module
    config: StreamConfig  # its seed is the first prompt's, the others count on
    memory: MemoryPolicy = OFF


@dataclass(frozen=True)
class Subject:
    """A model and what it is to be watched on."""

    name: str
    models: tuple[Watched, ...]  # as shipped, and as a memory changes it, in turns; the last is fitted to
    texts: dict[str, Tensor]  # prompt -> [1, L, E]
    negative: Tensor | None

    def of(self, index: int) -> Watched:
        """What stream `index` is made by: in turns, so that held-out streams are of each, too."""
        return self.models[(index + index // len(self.models) // 2) % len(self.models)]


def pocket_subject(options: argparse.Namespace, device: torch.device) -> Subject:
    """The built-in model, on prompts of its world; with a memory, half of the streams are made with it."""
    pocket = load_pocket()
    watched = [Watched(pocket.dit.to(device), pocket.config(options.seed))]
    if options.memory != OFF.name:
        changed, policy = remembering(replace(pocket, dit=watched[0].dit), options.memory)
        watched.append(Watched(changed.dit, changed.config(options.seed), policy))
    draw = torch.Generator().manual_seed(POCKET_SEED)
    count = POCKET_PROMPTS * len(watched)
    scenes = world.sample_scenes(2 * count, draw, band_share=0.0, combinations="seen")
    examples = list(dict.fromkeys(scenes.prompts()))[:count]
    prompts = read_prompts(options.prompts) if options.prompts else examples
    texts = {prompt: pocket.encode(prompt).to(device) for prompt in prompts}
    negative = pocket.no_text().to(device) if watched[0].config.guided else None
    return Subject(DIT_FILE, tuple(watched), texts, negative)


def wan_subject(options: argparse.Namespace, device: torch.device) -> Subject:
    """A checkpoint file, on encoded prompts."""
    if options.texts is None:
        raise ValueError("--model needs --texts, a file of encoded prompts; `--help` says what it holds.")
    dtype = getattr(torch, options.dtype)
    with open_tensors("calibrate", options.texts, "a .safetensors file of encoded prompts") as file:
        texts = {prompt: file.get_tensor(prompt).to(device, dtype) for prompt in shapes_in(file)}
    texts = {prompt: text if text.ndim == 3 else text[None] for prompt, text in texts.items()}
    negative = texts.pop("", None)
    if options.prompts:
        texts = select_texts(texts, read_prompts(options.prompts))
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
    watched = (Watched(dit, config),)
    return Subject(options.model.name, watched, texts, negative if config.guided else None)


def read_prompts(path: Path) -> list[str]:
    """Prompts of a text file, one a line; empty lines are passed over, doubles count once."""
    if not path.is_file():
        raise ValueError(f"no file at {path}; --prompts takes a text file with one prompt a line.")
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def select_texts(texts: dict[str, Tensor], prompts: Sequence[str]) -> dict[str, Tensor]:
    """The texts of these prompts."""
    absent = [prompt for prompt in prompts if prompt not in texts]
    if absent:
        raise ValueError(
            f"--prompts names {len(absent)} prompts that --texts does not hold, the first is {absent[0]!r}; "
            f"encode them, or leave --prompts out."
        )
    return {prompt: texts[prompt] for prompt in prompts}


def subject_blocks(
    subject: Subject, recording: CacheFormat, prompt: str, index: int, count: int
) -> Iterator[None]:
    """Makes the blocks of one stream in the calibration's format, one an item."""
    watched = subject.of(index)
    config = replace(watched.config, seed=watched.config.seed + index)
    text_BLE = subject.texts[prompt]
    caller = ModelCaller(watched.dit, text_BLE.device)
    prompted = texts(text_BLE, subject.negative)
    state = init(caller, prompted, config, cache=recording, memory=watched.memory)
    for _ in rollout(caller, state, count):
        yield
