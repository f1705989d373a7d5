"""Is what left the window remembered? An object goes behind a band and must come out as it went in.

Truth is shown to the stream block by block, up to the block in which the band is lifted; that one the model
makes, with a prompt that only says "an object". A detector reads colour and shape from its last pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.arch.mla_load import load_mla
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.cache.calibrate import Goal
from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.latent import LatentFormat
from ...model_patches.cache.mla import MlaFormat
from ...model_patches.memory.ema import EmaSink
from ...model_patches.memory.learned import LearnedMemory
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.stream import StreamState, init, set_text, step
from ...model_patches.vae.wan import TIME_STRIDE, WanVAE
from ...pocket import detector, hiding, models, world
from ...pocket.hiding import ENCODED, HIDDEN, Hidings, Story
from ...pocket.models import Pocket, load_pocket
from ...pocket.remember.command import MEMORY_FILE, load_exported
from ...pocket.remember.lessons import FULL, MEMORY, SINK_AND_WINDOW, WINDOW
from ...pocket.remember.lora import merge
from ...pocket.remember.reorder import for_layout
from ...pocket.train.vae import channels_last
from .contenders import DENSE_TOKEN_BYTES, learned
from .records import Rows
from .replay import replay

SEED = 6_000_000  # of the stories; training draws from others
LENGTHS = (1, 3, 6, 12, 24)  # blocks hidden
QUICK_LENGTHS = (1, 3)
JUDGED = TIME_STRIDE  # last pictures of the block that is made
CHANCE = {
    "colour": 1 / (len(world.COLOURS) - 1),
    "shape": 1 / len(world.SHAPES),
}  # no object has its ground's


@dataclass(frozen=True)
class Contestant:
    """One way to remember, on one model."""

    name: str
    dit: nn.Module
    positions: PositionPreset
    cache: CacheFormat = DENSE
    memory: MemoryPolicy = OFF


@dataclass(frozen=True)
class Stage:
    """What all contestants are given."""

    pocket: Pocket
    told: Hidings  # of all trials
    lengths: tuple[int, ...]
    batch: int
    decoder: WanVAE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--policies", nargs="+", help="which to measure; default all")
    parser.add_argument("--trials", type=int, help="stories of each length; default 200, quick 8")
    parser.add_argument("--lengths", type=int, nargs="+", help="blocks hidden; default 1 3 6 12 24")
    parser.add_argument("--batch", type=int, default=10, help="streams side by side")
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    parser.add_argument("--stories", type=Path, help="keep the encoded stories in this file, or take them")
    parser.add_argument(
        "--rows", type=Path, nargs="+", help="rows of earlier runs: draw them, measure nothing"
    )
    parser.add_argument("--out", type=Path, help="draw the curves into this PNG")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when every policy could be measured."""
    from .recall_picture import draw, read

    if chosen.rows:
        draw(read(chosen.rows), chosen.out or Path("docs/recall.png"))
        return 0
    pocket = load_pocket(chosen.weights)
    lengths = tuple(chosen.lengths or (QUICK_LENGTHS if chosen.quick else LENGTHS))
    trials = chosen.trials or (8 if chosen.quick else 200)
    stage = Stage(pocket, stories(pocket, trials, chosen.stories), lengths, chosen.batch, pocket.vae)
    channels_last(pocket.vae)
    makers = contestants(pocket, chosen.weights or models.WEIGHTS, chosen.quick)
    unknown = set(chosen.policies or ()) - set(makers)
    if unknown:
        wrong = ", ".join(sorted(unknown))
        raise SystemExit(f"bench recall: no policy is called {wrong}; there are {', '.join(makers)}")
    points: list[dict[str, float | str]] = []
    for length, figures in ceiling(stage).items():
        rows("recall", policy="truth", **_hidden(length), **figures)
    for name in chosen.policies or makers:
        for length, figures in measure(stage, makers[name]()).items():
            rows("recall", policy=name, weights=pocket.recipe.trained, **_hidden(length), **figures)
            points.append({"policy": name, **_hidden(length), **figures})
    if chosen.out:
        draw(points, chosen.out)
    return 0


def stories(pocket: Pocket, trials: int, kept: Path | None) -> Hidings:
    """The trials' stories, from the file if there is one."""
    if kept is not None and kept.exists():
        told = Hidings(*torch.load(kept, weights_only=True))
        if len(told) < trials:
            raise SystemExit(f"bench recall: {kept} holds {len(told)} stories, {trials} are asked for.")
        return told.pick(torch.arange(trials))
    generator = torch.Generator().manual_seed(SEED)
    recipe = pocket.recipe
    parts = [
        hiding.draw(pocket.vae, min(10, trials - done), recipe.block_frames, recipe.size, generator)
        for done in range(0, trials, 10)
    ]
    told = parts[0]
    for part in parts[1:]:
        told = told.joined(part, trials)
    if kept is not None:
        torch.save([told.latents_BCTHW, told.texts_BPLE, told.look_B3], kept)
    return told


def contestants(pocket: Pocket, folder: Path, quick: bool) -> dict[str, Callable[[], Contestant]]:
    """What makes each policy's contestant. All but the converted one run the same weights."""
    encoder, lora, about = load_exported(folder / MEMORY_FILE)
    encoder.requires_grad_(False).eval()
    merge(pocket.dit, lora, float(str(about["alpha"])))
    dit, remembering = pocket.dit, LearnedMemory(encoder, str(about["trained"]))

    def latent() -> Contestant:
        seen = replace(pocket, recipe=replace(pocket.recipe, preset=MEMORY.name))
        calibration = learned(seen, 6 if quick else 16, 6 if quick else 10)
        goal = Goal(token_bytes=DENSE_TOKEN_BYTES * dit.dim / 8)
        made = LatentFormat(calibration.basis(calibration.choose(goal), {}))
        return Contestant("learned+latent", dit, MEMORY, made, remembering)

    def mla() -> Contestant:
        converted = load_mla(folder / models.MLA_FILE, torch.float32)[0]
        memory = LearnedMemory(for_layout(encoder, converted.rope_layout), remembering.fingerprint)
        return Contestant("learned+mla", converted, MEMORY, MlaFormat.of(converted, False), memory)

    return {
        "full": partial(Contestant, "full", dit, FULL),
        "window": partial(Contestant, "window", dit, WINDOW),
        "window+sink": partial(Contestant, "window+sink", dit, SINK_AND_WINDOW),
        "ema": partial(Contestant, "ema", dit, SINK_AND_WINDOW, memory=EmaSink()),
        "learned": partial(Contestant, "learned", dit, MEMORY, memory=remembering),
        "learned+latent": latent,
        "learned+mla": mla,
    }


def measure(stage: Stage, contestant: Contestant) -> dict[int, dict[str, float]]:
    """Figures for each number of hidden blocks, over all trials."""
    verdicts: dict[int, list[tuple[bool, bool]]] = {length: [] for length in stage.lengths}
    for rows in torch.arange(len(stage.told)).split(stage.batch):
        told = stage.told.pick(rows)
        for length, latents in lifted(stage, contestant, told).items():
            seen = pictures(stage, told, length, latents)
            verdicts[length] += judge(seen, told.look_B3)
        done = f"{contestant.name}: {int(rows[-1]) + 1} of {len(stage.told)} trials"
        print(done, file=sys.stderr, flush=True)
    return {length: figures(found) for length, found in verdicts.items()}


def lifted(stage: Stage, contestant: Contestant, told: Hidings) -> Mapping[int, Tensor]:
    """Latents [B, C, T, H, W] of the block in which the band is lifted, for each number of hidden blocks.

    One walk serves all: whenever it has seen enough hidden blocks the next one is made and thrown away.
    """
    pocket, frames, dit = stage.pocket, stage.pocket.recipe.block_frames, contestant.dit
    config = replace(pocket.config(seed=1), preset=contestant.positions)
    story = Story(ENCODED[1], max(stage.lengths), 1)
    latents, texts = told.told(story, frames)
    nothing = pocket.no_text().expand_as(texts[0]).contiguous()
    room = frames * len(texts)
    state = init(
        dit, texts[0], config, nothing, reserve_frames=room, cache=contestant.cache, memory=contestant.memory
    )
    made: dict[int, Tensor] = {}
    before = story.parts.index(HIDDEN)
    for block, part in enumerate(story.parts[:-1]):
        state = set_text(dit, state, texts[block])
        state = replay(dit, state, latents[:, :, block * frames : (block + 1) * frames])
        hidden = block + 1 - before
        if part == HIDDEN and hidden in stage.lengths:
            made[hidden] = generate(dit, state, texts[-1])
    return made


def generate(dit: nn.Module, state: StreamState, text_BLE: Tensor) -> Tensor:
    """The next block under another prompt; the state can still be continued."""
    return step(dit, set_text(dit, state, text_BLE))[0]


@torch.inference_mode()
def pictures(stage: Stage, told: Hidings, length: int, latents: Tensor) -> Tensor:
    """The last pictures [B, F, H, W, 3], uint8, after the two blocks of truth before them."""
    frames = stage.pocket.recipe.block_frames
    story = Story(ENCODED[1], min(length, ENCODED[HIDDEN]), 1)
    truth, _ = told.told(story, frames)
    with torch.autocast("cpu", torch.bfloat16):
        _, past = stage.decoder.decode(truth[:, :, -3 * frames : -frames])
        pixels, _ = stage.decoder.decode(latents, past)
    shown = pixels[:, :, -JUDGED:].float().clamp(-1, 1)
    return ((shown + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)


def ceiling(stage: Stage, trials: int = 50) -> dict[int, dict[str, float]]:
    """What the detector reads in the truth after the VAE: nobody can do better."""
    told = stage.told.pick(torch.arange(min(trials, len(stage.told))))
    frames, found = stage.pocket.recipe.block_frames, []
    truth, _ = told.told(Story(ENCODED[1], ENCODED[HIDDEN], 1), frames)
    for rows in torch.arange(len(told)).split(stage.batch):
        some = told.pick(rows)
        found += judge(pictures(stage, some, ENCODED[HIDDEN], truth[rows][:, :, -frames:]), some.look_B3)
    return {length: figures(found) for length in (ENCODED[HIDDEN],)}


def judge(pixels_BFHWC: Tensor, look_B3: Tensor) -> list[tuple[bool, bool]]:
    """Whether most pictures of each trial show the right (colour, shape); an object that is not there is wrong."""
    verdicts = []
    for clip, (colour, shape, _) in zip(pixels_BFHWC, look_B3.tolist(), strict=True):
        wanted = list(world.COLOURS)[colour], world.SHAPES[shape]
        seen: Counter[tuple[str | None, str | None]] = Counter()
        for frame in detector.detect(clip):
            largest = max(frame.objects, key=lambda each: each.area, default=None)
            seen[(largest.colour, largest.shape) if largest else (None, None)] += 1
        right = [sum(n for look, n in seen.items() if look[i] == wanted[i]) for i in (0, 1)]
        verdicts.append((2 * right[0] > len(clip), 2 * right[1] > len(clip)))
    return verdicts


def figures(verdicts: list[tuple[bool, bool]]) -> dict[str, float]:
    """Shares of trials: both right, colour right, shape right."""
    count = len(verdicts)
    return {
        "recall": sum(colour and shape for colour, shape in verdicts) / count,
        "colour_recall": sum(colour for colour, _ in verdicts) / count,
        "shape_recall": sum(shape for _, shape in verdicts) / count,
        "trials": count,
    }


def _hidden(blocks: int) -> dict[str, float]:
    window = MEMORY.window_frames or 0
    return {"hidden_blocks": blocks, "hidden_windows": blocks * 3 / window}
