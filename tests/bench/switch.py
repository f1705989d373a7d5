"""How soon does a new prompt show, and how hard does the picture jump? Each kind of switch, side by side.

Streams get a new prompt at a block border, each its own: the same movement in other colours and shapes. All
kinds go on from the very same state. A detector reads the pictures that follow.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.memory.policy import MemoryPolicy
from ...model_patches.stream.snapshot import load, save
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import step
from ...model_patches.stream.switch import switch
from ...model_patches.stream.timeline import MODES
from ...model_patches.vae.wan import LayerBuffers
from ...pocket import detector, world
from ...pocket.models import Pocket, load_pocket
from .records import Rows
from .remembering import MEMORIES, add_memory_file, remembering

SEED = 7_000_000  # of the prompts; training draws from others
BEFORE_BLOCKS = 10  # under the first prompt: the window is full and the memory has been updated
SHOWN_BLOCKS = 3  # of them, decoded; the last is judged, the others give the decoder its past
AFTER_BLOCKS = 16  # under the new prompt; longer than a window and a blend

Prompts = Sequence[str]


@dataclass(frozen=True)
class Start:
    """All streams where the new prompt comes: a file, for it is gone on from once for each kind of switch."""

    pocket: Pocket
    memory: MemoryPolicy
    path: Path
    past: LayerBuffers  # of the decoder
    blocks_BFHWC: tuple[Tensor, ...]  # newest pictures of the first prompt, block by block


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--streams", type=int, help="pairs of prompts; default 48, quick 4")
    parser.add_argument("--blocks", type=int, help="made under the new prompt; default 16, quick 5")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="kinds of switch")
    parser.add_argument("--memories", nargs="+", choices=MEMORIES, default=["off", "learned"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    add_memory_file(parser)


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when every kind of switch could be made and judged."""
    streams = (4 if chosen.quick else 48) if chosen.streams is None else chosen.streams
    blocks = (5 if chosen.quick else AFTER_BLOCKS) if chosen.blocks is None else chosen.blocks
    if min(streams, blocks) < 1:
        raise SystemExit(f"bench switch: {streams} streams and {blocks} blocks; give 1 or more of each")
    pocket = load_pocket(chosen.weights)
    # a memory without its file is refused before anything is made
    ways = [remembering(pocket, name, chosen.memory_file) for name in chosen.memories]
    old, new = prompts(streams, chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        for way, memory in ways:
            start = begun(way, memory, old, chosen.seed, Path(folder) / f"{memory.name}.safetensors")
            shown = sum(shows(start.blocks_BFHWC[-1], old)) / streams
            for mode in chosen.modes:
                figures = judged(start, switched(start, new, mode, blocks), new)
                rows(
                    "switch",
                    mode=mode,
                    memory=memory.name,
                    weights=way.recipe.trained,
                    streams=streams,
                    watched_blocks=blocks,
                    old_prompt_share=shown,
                    **figures,
                )
                print(f"{memory.name}, {mode}: {figures}", file=sys.stderr, flush=True)
    return 0


def prompts(streams: int, seed: int) -> tuple[list[str], list[str]]:
    """(first, new) prompt of each stream; no pair is the same, nor the same things in another order."""
    generator = torch.Generator().manual_seed(SEED + seed)
    old: list[str] = []
    new: list[str] = []
    while len(old) < streams:
        scenes = world.sample_scenes(streams, generator, band_share=0.0)
        for pair in zip(scenes.prompts(), world.change_looks(scenes, generator).prompts(), strict=True):
            if detector.parse_prompt(pair[0]) != detector.parse_prompt(pair[1]) and len(old) < streams:
                old.append(pair[0])
                new.append(pair[1])
    return old, new


def begun(pocket: Pocket, memory: MemoryPolicy, old: Prompts, seed: int, path: Path) -> Start:
    """All streams side by side under their first prompts."""
    state = pocket.begin(text_of(pocket, old), pocket.config(seed), memory=memory)
    blocks: list[Tensor] = []
    past: LayerBuffers | None = None
    for number in range(BEFORE_BLOCKS):
        latents, state = step(pocket.caller, state)
        if number >= BEFORE_BLOCKS - SHOWN_BLOCKS:
            pixels, past = decoded(pocket, latents, past)
            blocks.append(pixels)
    assert past is not None
    save(pocket.caller, state, path)
    return Start(pocket, memory, path, past, tuple(blocks))


def switched(start: Start, new: Prompts, mode: str, blocks: int) -> list[Tensor]:
    """Pictures [B, F, H, W, 3] of each block under the new prompts; a cut begins another scene."""
    pocket = start.pocket
    state: StreamState = load(start.path, pocket.caller, memory=start.memory)
    state = switch(pocket.caller, state, pocket.prompt(text_of(pocket, new), state.config), mode)
    past, made = None if mode == "cut" else start.past, []
    if state.shot:
        _, past = decoded(pocket, state.tail_BCTHW, None)
    for _ in range(blocks):
        latents, state = step(pocket.caller, state)
        pixels, past = decoded(pocket, latents, past)
        made.append(pixels)
    return made


@torch.inference_mode()
def decoded(pocket: Pocket, latents_BCTHW: Tensor, past: LayerBuffers | None) -> tuple[Tensor, LayerBuffers]:
    """(pictures [B, F, H, W, 3], uint8, past) of a block, each stream by itself in the same order."""
    pixels, past = pocket.vae.decode(latents_BCTHW.float(), past)
    shown = (pixels.clamp(-1, 1) + 1) * 127.5
    return shown.round().to(torch.uint8).permute(0, 2, 3, 4, 1), past


def shows(pixels_BFHWC: Tensor, wanted: Prompts) -> list[bool]:
    """Whether most pictures of each stream show its prompt, and nothing else."""
    return [detector.adherence(clip, prompt) > 0.5 for clip, prompt in zip(pixels_BFHWC, wanted, strict=True)]


def judged(start: Start, blocks_BFHWC: list[Tensor], new: Prompts) -> dict[str, float]:
    """Figures of one kind of switch; `blocks_to_prompt` is left out where no stream came to show its prompt.

    jump: mean change of a pixel at the switch, over the streams; jump_inside, jump_border: the same between
    two pictures of a block, and at the borders of other blocks, medians over all.
    """
    seen = [shows(pixels, new) for pixels in blocks_BFHWC]
    arrived = [first(stream) for stream in zip(*seen, strict=True)]
    there = [block for block in arrived if block is not None]
    jump_B, inside, border = jumps(start.blocks_BFHWC, blocks_BFHWC)
    figures = {
        "reached": len(there) / len(new),
        "last_block_prompt_share": sum(seen[-1]) / len(new),
        "jump": float(jump_B.mean()),
        "jump_inside": inside,
        "to_inside_ratio": float(jump_B.mean()) / inside if inside else 0.0,
    }
    if border is not None:
        figures["jump_border"] = border
    if there:
        figures["blocks_to_prompt"] = statistics.median(there)
    return figures


def first(seen: Sequence[bool]) -> int | None:
    """How many blocks it took: 1 for the first one; None where it never showed."""
    return next((block for block, shown in enumerate(seen, 1) if shown), None)


def jumps(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[Tensor, float, float | None]:
    """(change at the switch of each stream, median inside blocks, median at the other borders), of 255."""
    inside = torch.cat([changes(block).flatten() for block in (*before, *after)])
    borders = [change(one[:, -1], other[:, 0]) for part in (before, after) for one, other in pairwise(part)]
    at_switch = change(before[-1][:, -1], after[0][:, 0])
    return at_switch, float(inside.median()), float(torch.cat(borders).median()) if borders else None


def changes(pixels_BFHWC: Tensor) -> Tensor:
    """Mean change of a pixel from picture to picture, [B, F - 1]."""
    return change(pixels_BFHWC[:, :-1], pixels_BFHWC[:, 1:])


def change(one: Tensor, other: Tensor) -> Tensor:
    """Mean of |difference| over height, width and colours."""
    return (other.float() - one.float()).abs().mean((-3, -2, -1))


def text_of(pocket: Pocket, wanted: Prompts) -> Tensor:
    """The texts of as many streams, encoded."""
    return torch.cat([pocket.encode(prompt) for prompt in wanted])
