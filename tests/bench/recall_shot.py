"""Does an object come along into another scene? It is shown, then a prompt asks for "an object" elsewhere.

Truth is shown to the stream block by block; every kind of switch goes on from the very same state, on
another ground. The prompt does not say what the object looks like: its colour and shape must come from what
the switch keeps. A detector reads the pictures that follow.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.memory.policy import MemoryPolicy
from ...model_patches.stream.snapshot import load, save
from ...model_patches.stream.step import step
from ...model_patches.stream.switch import switch
from ...pocket import detector, world
from ...pocket.models import Pocket, load_pocket
from ...pocket.replay import replay
from ...pocket.train_pocket.clips import encode_pictures
from .records import Rows
from .remembering import MEMORIES, add_memory_file, remembering
from .switch import change, decoded, text_of

SEED = 9_500_000  # of the scenes; training draws from others
SHOWN_BLOCKS = 5  # the window is full
PICTURE = "shot+picture"  # a shot that keeps a still of the first picture, in place of the newest frames
MODES = ("cut", "shot", PICTURE, "recache", "smooth")
TAIL = 9  # latents that give the decoder its past


@dataclass(frozen=True)
class Trials:
    """Scenes of one object each, B of them, and the ground that it is asked for on afterwards."""

    scenes: world.Scenes
    grounds: tuple[str, ...]
    pixels_BFHWC: Tensor  # the truth that is shown
    latents_BCTHW: Tensor

    @property
    def looks(self) -> list[tuple[str, str]]:
        """Colour and shape of each object."""
        pairs = zip(self.scenes.colour_BN[:, 0].tolist(), self.scenes.shape_BN[:, 0].tolist(), strict=True)
        return [(detector.COLOURS[colour], world.SHAPES[shape]) for colour, shape in pairs]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--trials", type=int, help="scenes; default 48, quick 4")
    parser.add_argument("--batch", type=int, default=12, help="streams side by side")
    parser.add_argument("--blocks", type=int, default=4, help="made on the other ground")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="kinds of switch")
    parser.add_argument("--memories", nargs="+", choices=MEMORIES, default=["off", "learned"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    add_memory_file(parser)


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when every kind of switch could be made and judged."""
    trials = (4 if chosen.quick else 48) if chosen.trials is None else chosen.trials
    if min(trials, chosen.blocks, chosen.batch) < 1:
        raise SystemExit(f"bench shot: {trials} trials, {chosen.blocks} blocks; give 1 or more of each")
    pocket = load_pocket(chosen.weights)
    ways = [remembering(pocket, name, chosen.memory_file) for name in chosen.memories]
    generator = torch.Generator().manual_seed(SEED + chosen.seed)
    found: dict[tuple[str, str, int], list[Seen]] = {}
    for first in range(0, trials, chosen.batch):
        some = drawn(pocket, min(chosen.batch, trials - first), generator)
        for way, memory in ways:
            made = judged(way, memory, some, chosen.modes, chosen.blocks, chosen.seed + first)
            for (mode, block), seen in made.items():
                found.setdefault((memory.name, mode, block), []).extend(seen)
        print(f"{first + len(some.grounds)} of {trials} trials", file=sys.stderr, flush=True)
    for (memory, mode, block), seen in found.items():
        rows("shot", memory=memory, mode=mode, made_blocks=block, trials=len(seen), **figures(seen))
    return 0


def drawn(pocket: Pocket, count: int, generator: torch.Generator) -> Trials:
    """New trials, encoded."""
    scenes = world.sample_scenes(count, generator, band_share=0.0)
    colour_BN = scenes.colour_BN.clone()
    colour_BN[:, 1:] = -1
    scenes = replace(scenes, colour_BN=colour_BN)
    grounds: list[str] = []
    for ground, colour in zip(scenes.ground_B.tolist(), colour_BN[:, 0].tolist(), strict=True):
        free = [name for at, name in enumerate(detector.COLOURS) if at not in (ground, colour)]
        grounds.append(free[int(torch.randint(len(free), (1,), generator=generator))])
    frames = 1 + 4 * (SHOWN_BLOCKS * pocket.recipe.block_frames - 1)
    pixels = world.render(scenes, world.simulate(scenes, frames), pocket.recipe.size)
    return Trials(scenes, tuple(grounds), pixels, encode_pictures(pocket.vae, pixels))


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last picture of a block shows of one trial."""

    colour: bool  # of the largest object
    shape: bool
    alone: bool
    ground: bool  # the one that was asked for
    jump: float  # at the switch, of 255 levels
    moved: float  # of the side, from the last picture that was shown to the block's; NaN: it is not there

    @property
    def whole(self) -> bool:
        """The object alone, on the new ground."""
        return self.colour and self.shape and self.alone and self.ground


def judged(
    pocket: Pocket, memory: MemoryPolicy, trials: Trials, modes: Sequence[str], blocks: int, seed: int
) -> dict[tuple[str, int], list[Seen]]:
    """What is seen after each kind of switch, by (kind, blocks made)."""
    frames, found = pocket.recipe.block_frames, dict[tuple[str, int], list[Seen]]()
    state = pocket.begin(text_of(pocket, trials.scenes.prompts()), pocket.config(seed), memory=memory)
    for clean_BCTHW in trials.latents_BCTHW.split(frames, 2):
        state = replay(pocket.caller, state, clean_BCTHW)
    _, past = decoded(pocket, trials.latents_BCTHW[:, :, -TAIL:], None)
    asked = text_of(pocket, [f"an object on a {ground} ground" for ground in trials.grounds])
    prompt = pocket.prompt(asked, state.config)
    with tempfile.TemporaryDirectory() as folder:
        save(pocket.caller, state, path := Path(folder) / "state.safetensors")
        for mode in modes:
            begun = load(path, pocket.caller, memory=memory)
            kept = still(pocket, trials, begun.config.positions.sink_frames) if mode == PICTURE else None
            begun = switch(pocket.caller, begun, prompt, mode.removesuffix("+picture"), reference_BCTHW=kept)
            before = {"cut": None}.get(mode, past)
            if begun.shot:
                _, before = decoded(pocket, begun.tail_BCTHW, None)
            jump_B = None
            for block in range(1, blocks + 1):
                latents, begun = step(pocket.caller, begun)
                pixels, before = decoded(pocket, latents, before)
                jump_B = change(trials.pixels_BFHWC[:, -1], pixels[:, 0]) if jump_B is None else jump_B
                found[mode, block] = read(trials, pixels[:, -1], jump_B)
    return found


def still(pocket: Pocket, trials: Trials, frames: int) -> Tensor:
    """Latents of a film of so many latent frames in which the first picture stands still."""
    count = pocket.config().geometry.pixel_frames(frames)
    return encode_pictures(pocket.vae, trials.pixels_BFHWC[:, :1].repeat(1, count, 1, 1, 1))


def read(trials: Trials, pixels_BHWC: Tensor, jump_B: Tensor) -> list[Seen]:
    """What one picture of each trial shows."""
    last = [max(each.objects, key=_area) for each in detector.detect(trials.pixels_BFHWC[:, -1])]
    rows = zip(detector.detect(pixels_BHWC), trials.looks, trials.grounds, last, jump_B.tolist(), strict=True)
    found: list[Seen] = []
    for frame, look, ground, was, jump in rows:
        largest = max(frame.objects, key=_area, default=None)
        colour, shape = (largest.colour, largest.shape) if largest else (None, None)
        moved = math.hypot(largest.x - was.x, largest.y - was.y) if largest else math.nan
        alone, there = len(frame.objects) == 1, frame.ground == ground
        found.append(Seen(colour == look[0], shape == look[1], alone, there, jump, moved))
    return found


def _area(each: detector.Object) -> float:
    return each.area


def figures(seen: Sequence[Seen]) -> dict[str, float]:
    """Shares of the trials, the standard error of recall, and means."""

    def share(right: Sequence[bool]) -> float:
        return sum(right) / len(right)

    recall = share([each.colour and each.shape for each in seen])
    moved = [each.moved for each in seen if not math.isnan(each.moved)]
    return {
        "recall": recall,
        "standard_error_share": (recall * (1 - recall) / max(1, len(seen) - 1)) ** 0.5,
        "colour_recall": share([each.colour for each in seen]),
        "shape_recall": share([each.shape for each in seen]),
        "whole_share": share([each.whole for each in seen]),
        "alone_share": share([each.alone for each in seen]),
        "new_ground_share": share([each.ground for each in seen]),
        "jump": sum(each.jump for each in seen) / len(seen),
        **({"moved_share": sum(moved) / len(moved)} if moved else {}),
    }
