"""Is what left the window remembered? An object goes behind a band and must come out as it went in.

Truth is shown to the stream block by block, up to the block in which the band is lifted; that one the model
makes, with a prompt that only says "an object". A detector reads colour and shape from its last picture.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.cache.calibration.calibrate import Goal
from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.formats import FORMATS
from ...model_patches.memory.policies import POLICIES
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.stream.model_caller import ModelCaller, Texts
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init, step
from ...model_patches.stream.switch import switch
from ...model_patches.vae.wan import LayerBuffers, WanVAE
from ...pocket import detector, hiding, models, world
from ...pocket.hiding import ENCODED, HIDDEN, VISIBLE, HidingClips, Story
from ...pocket.models import Pocket, load_pocket
from ...pocket.train_memory.lessons import FULL, MEMORY, SINK_AND_WINDOW, WINDOW
from ...pocket.train_pocket.vae import channels_last
from .contenders import DENSE_TOKEN_BYTES, learned
from .records import Rows
from .replay import replay

SEED = 6_000_000  # of the stories; training draws from others
LENGTHS = (1, 3, 6, 12, 24)  # blocks hidden
QUICK_LENGTHS = (1, 3)
CPU = torch.device("cpu")
CHANCE = {
    "colour": 1 / (len(world.COLOURS) - 1),
    "shape": 1 / len(world.SHAPES),
}


@dataclass(frozen=True)
class Contestant:
    """One way to remember, on one model."""

    name: str
    dit: WanModel
    positions: PositionPreset
    cache: CacheFormat = DENSE
    memory: MemoryPolicy = OFF


@dataclass(frozen=True)
class Stage:
    """What all contestants are given."""

    pocket: Pocket
    told: HidingClips  # of all trials
    lengths: tuple[int, ...]
    batch: int
    decoder: WanVAE  # in bfloat16, in half the time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--policies", nargs="+", help="which to measure; default all")
    parser.add_argument("--trials", type=int, help="stories of each length; default 200, quick 4")
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
    trials = chosen.trials or (4 if chosen.quick else 200)
    channels_last(pocket.vae)
    told = stories(pocket, trials, chosen.stories)
    stage = Stage(pocket, told, lengths, chosen.batch, copy.deepcopy(pocket.vae).bfloat16())
    makers = contestants(pocket, chosen.weights or models.WEIGHTS, chosen.quick)
    unknown = set(chosen.policies or ()) - set(makers)
    if unknown:
        wrong = ", ".join(sorted(unknown))
        raise SystemExit(f"bench recall: no policy is called {wrong}; there are {', '.join(makers)}")
    chosen_names = list(chosen.policies or makers)
    for length, found in ceiling(stage).items():
        rows("recall", policy="truth", **_hidden(length), **found)
    points: list[dict[str, float | str]] = []
    for name, by_length in measure(stage, [makers[name]() for name in chosen_names]).items():
        for length, found in by_length.items():
            rows("recall", policy=name, weights=pocket.recipe.trained, **_hidden(length), **found)
            points.append({"policy": name, **_hidden(length), **found})
    if chosen.out:
        draw(points, chosen.out)
    return 0


def stories(pocket: Pocket, trials: int, kept: Path | None) -> HidingClips:
    """The trials' stories, from the file if there is one."""
    if kept is not None and kept.exists():
        told = HidingClips.load(kept)
        if len(told) < trials:
            raise SystemExit(f"bench recall: {kept} holds {len(told)} stories, {trials} are asked for.")
        return told.select(torch.arange(trials))
    generator = torch.Generator().manual_seed(SEED)
    recipe = pocket.recipe
    parts = [
        hiding.draw(pocket.vae, min(10, trials - done), recipe.block_frames, recipe.size, generator)
        for done in range(0, trials, 10)
    ]
    told = parts[0]
    for part in parts[1:]:
        told = told.concat(part, trials)
    if kept is not None:
        torch.save([told.latents_BCTHW, told.texts_BPLE, told.look_B3], kept)
    return told


def contestants(pocket: Pocket, folder: Path, quick: bool) -> dict[str, Callable[[], Contestant]]:
    """What makes each policy's contestant. All but the converted one run the same weights."""
    kind, contract = POLICIES["learned"], replace(pocket.config(), preset=MEMORY)
    found = kind.load(folder / models.MEMORY_FILE, pocket.dit, "", torch.float32)
    assert found.lora is not None, "the pocket's memory was trained with changes of its model"
    dit, remembering = found.lora.merge(pocket.dit), kind.build(contract, CPU, found, {})

    def latent() -> Contestant:
        seen = replace(pocket, dit=dit, recipe=replace(pocket.recipe, preset=MEMORY.name))
        calibration = learned(seen, 4 if quick else 16, 6 if quick else 10)
        basis = calibration.basis(calibration.choose(Goal(DENSE_TOKEN_BYTES * dit.dim / 8)), {})
        made = FORMATS["latent"].build(dit, source=basis)
        return Contestant("learned+latent", dit, MEMORY, made, remembering)

    def mla() -> Contestant:
        own = load_pocket(folder, dit_file=models.MLA_MEMORY_FILE)
        taught = kind.load(folder / models.MEMORY_FILE, own.dit, own.recipe.taught, torch.float32)
        memory = kind.build(contract, CPU, taught, {})
        return Contestant("learned+mla", own.dit, MEMORY, FORMATS["mla"].build(own.dit), memory)

    return {
        "full": partial(Contestant, "full", dit, FULL),
        "window": partial(Contestant, "window", dit, WINDOW),
        "window+sink": partial(Contestant, "window+sink", dit, SINK_AND_WINDOW),
        **without_a_file(pocket, dit),
        "learned": partial(Contestant, "learned", dit, MEMORY, memory=remembering),
        "learned+latent": latent,
        "learned+mla": mla,
    }


def without_a_file(pocket: Pocket, dit: WanModel) -> dict[str, Callable[[], Contestant]]:
    """Contestants of the memories that are built from nothing, but for the one that is none."""
    contract = replace(pocket.config(), preset=SINK_AND_WINDOW)
    policies = [kind.build(contract, CPU, None, {}) for kind in POLICIES.values() if not kind.files]
    return {
        policy.name: partial(Contestant, policy.name, dit, SINK_AND_WINDOW, memory=policy)
        for policy in policies
        if policy != OFF
    }


def measure(stage: Stage, contestants: Sequence[Contestant]) -> dict[str, dict[int, dict[str, float]]]:
    """Figures of each contestant for each number of hidden blocks, over all trials."""
    verdicts: dict[str, dict[int, list[tuple[bool, bool]]]] = {
        each.name: {length: [] for length in stage.lengths} for each in contestants
    }
    for rows in torch.arange(len(stage.told)).split(stage.batch):
        told = stage.told.select(rows)
        warm = {length: decoded(stage, told, length) for length in {*map(_encoded, stage.lengths)}}
        for each in contestants:
            for length, latents in lifted(stage, each, told, seed=int(rows[0])).items():
                seen = last_picture(stage, latents, warm[_encoded(length)])
                verdicts[each.name][length] += judge(seen, told.look_B3)
        print(f"{int(rows[-1]) + 1} of {len(stage.told)} trials", file=sys.stderr, flush=True)
    return {
        name: {length: figures(found) for length, found in by_length.items()}
        for name, by_length in verdicts.items()
    }


def lifted(stage: Stage, contestant: Contestant, told: HidingClips, seed: int) -> Mapping[int, Tensor]:
    """Latents [B, C, T, H, W] of the block in which the band is lifted, for each number of hidden blocks.

    One walk serves all: whenever it has seen enough hidden blocks the next one is made and thrown away.
    """
    pocket, frames, caller = stage.pocket, stage.pocket.recipe.block_frames, ModelCaller(contestant.dit)
    story = Story(ENCODED[VISIBLE], max(stage.lengths), 1)
    latents, texts = told.assemble(story, frames)
    negative = pocket.no_text().expand_as(texts[0]).contiguous()
    state = init(
        caller,
        (texts[0], negative),
        replace(pocket.config(seed), preset=contestant.positions),
        reserve_frames=frames * len(texts),
        cache=contestant.cache,
        memory=contestant.memory,
    )
    made: dict[int, Tensor] = {}
    before = story.parts.index(HIDDEN)
    for block, part in enumerate(story.parts[:-1]):
        state = switch(caller, state, (texts[block], negative), "smooth")
        state = replay(caller, state, latents[:, :, block * frames : (block + 1) * frames])
        hidden = block + 1 - before
        if part == HIDDEN and hidden in stage.lengths:
            made[hidden] = generate(caller, state, (texts[-1], negative))
    return made


def generate(caller: ModelCaller, state: StreamState, prompt: Texts) -> Tensor:
    """The next block under another prompt; the state can still be continued."""
    return step(caller, switch(caller, state, prompt, "smooth"))[0]


@torch.inference_mode()
def decoded(stage: Stage, told: HidingClips, length: int) -> LayerBuffers:
    """The decoder's past after the two blocks of truth before the band is lifted."""
    frames = stage.pocket.recipe.block_frames
    truth, _ = told.assemble(Story(ENCODED[VISIBLE], length, 1), frames)
    return stage.decoder.decode(truth[:, :, -3 * frames : -frames].bfloat16())[1]


@torch.inference_mode()
def last_picture(stage: Stage, latents: Tensor, past: LayerBuffers) -> Tensor:
    """The last picture [B, H, W, 3], uint8, of a block's latents."""
    pixels, _ = stage.decoder.decode(latents.bfloat16(), past)
    shown = pixels[:, :, -1].float().clamp(-1, 1)
    return ((shown + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def ceiling(stage: Stage, trials: int = 50) -> dict[int, dict[str, float]]:
    """What the detector reads in the truth after the VAE: nobody can do better."""
    told = stage.told.select(torch.arange(min(trials, len(stage.told))))
    length, frames = ENCODED[HIDDEN], stage.pocket.recipe.block_frames
    found: list[tuple[bool, bool]] = []
    for rows in torch.arange(len(told)).split(stage.batch):
        some = told.select(rows)
        truth, _ = some.assemble(Story(ENCODED[VISIBLE], length, 1), frames)
        seen = last_picture(stage, truth[:, :, -frames:], decoded(stage, some, length))
        found += judge(seen, some.look_B3)
    return {length: figures(found)}


def _encoded(length: int) -> int:
    """Hidden blocks of which the last two are those before the band is lifted."""
    return min(length, ENCODED[HIDDEN])


def judge(pixels_BHWC: Tensor, look_B3: Tensor) -> list[tuple[bool, bool]]:
    """Whether each trial's picture shows the right (colour, shape): its largest object's, none is wrong."""
    verdicts: list[tuple[bool, bool]] = []
    for frame, (colour, shape, _) in zip(detector.detect(pixels_BHWC), look_B3.tolist(), strict=True):
        seen = max(frame.objects, key=lambda each: each.area, default=None)
        verdicts.append(
            (False, False)
            if seen is None
            else (seen.colour == detector.COLOURS[colour], seen.shape == world.SHAPES[shape])
        )
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
