"""Is what left the window remembered? An object goes behind a band and must come out as it went in.

Truth is shown to the stream block by block, up to the block in which the band is lifted; that one the model
makes, with a prompt that only says "an object". With `--past own` it makes all of them, each from the prompt
of its part. What came out is read from the block's last picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.positions import preset
from ...model_patches.cache.formats import FORMATS
from ...model_patches.memory.policies import POLICIES
from ...model_patches.memory.policy import OFF
from ...pocket import hiding, models
from ...pocket.choices import build
from ...pocket.hiding import ENCODED, HIDDEN, VISIBLE, HidingClips, Story
from ...pocket.models import Pocket, load_pocket
from ...pocket.train_memory.lessons import FULL, MEMORY, SINK_AND_WINDOW, WINDOW
from ...pocket.train_pocket.vae import channels_last
from .recall_verdict import Eyes, Remembered, figures
from .recall_walk import Contestant, Stage, Walk, Watching, lifted
from .records import Rows

SEED = 6_000_000  # of the stories; training draws from others
LENGTHS = (1, 3, 6, 12, 24)  # blocks hidden
QUICK_LENGTHS = (1, 3)
CPU = torch.device("cpu")
PASTS = ("truth", "own")  # whose making the stream's past is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--policies", nargs="+", help="which to measure; default all")
    parser.add_argument("--trials", type=int, help="stories of each length; default 200, quick 4")
    parser.add_argument("--lengths", type=int, nargs="+", help="blocks hidden; default 1 3 6 12 24")
    parser.add_argument("--batch", type=int, default=10, help="streams side by side")
    parser.add_argument(
        "--past", choices=PASTS, default="truth", help="what the stream saw: shown, or its own"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the stories; default the reported ones")
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
    told = stories(pocket, trials, chosen.stories, chosen.seed)
    eyes, own = Eyes(pocket.vae), chosen.past == "own"
    stage = Stage(pocket, told, lengths, chosen.batch, eyes, own)
    makers = contestants(pocket, chosen.weights or models.WEIGHTS)
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
            how = {"policy": name, "mode": chosen.past, **_hidden(length), **found}
            rows("recall", weights=pocket.recipe.trained, **how)
            points.append(how)
    if chosen.out:
        draw(points, chosen.out)
    return 0


def stories(pocket: Pocket, trials: int, kept: Path | None, seed: int = SEED) -> HidingClips:
    """The trials' stories, from the file if there is one of this seed and this VAE."""
    made_of = {"held_out": "", "latents": models.fingerprint_of_latents(pocket.vae), "seed": str(seed)}
    if kept is not None and kept.exists():
        try:
            told = HidingClips.load(kept, made_of)
        except ValueError as error:
            raise SystemExit(f"bench recall: {error}") from error
        if len(told) < trials:
            raise SystemExit(f"bench recall: {kept} holds {len(told)} stories, {trials} are asked for.")
        return told.select(torch.arange(trials))
    generator = torch.Generator().manual_seed(seed)
    recipe = pocket.recipe
    parts = [
        hiding.draw(pocket.vae, min(10, trials - done), recipe.block_frames, recipe.size, generator)
        for done in range(0, trials, 10)
    ]
    told = parts[0]
    for part in parts[1:]:
        told = told.concat(part, trials)
    if kept is not None:
        told.save(kept, made_of)
    return told


def contestants(pocket: Pocket, folder: Path) -> dict[str, Callable[[], Contestant]]:
    """What makes each policy's contestant. All but the converted one run the same weights."""
    kind, contract = POLICIES["learned"], replace(pocket.config(), preset=MEMORY)
    found = kind.load(folder / models.MEMORY_FILE, pocket.dit, "", torch.float32)
    assert found.lora is not None, "the pocket's memory was trained with changes of its model"
    dit, remembering = found.lora.merge(pocket.dit), kind.build(contract, CPU, found, {})

    def latent() -> Contestant:
        made = build(FORMATS["latent"], replace(pocket, dit=dit), folder)
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
    made = {}
    for kind in (kind for kind in POLICIES.values() if not kind.files):
        policy = kind.build(replace(pocket.config(), preset=SINK_AND_WINDOW), CPU, None, {})
        own = preset(kind.preset("pocket", None)) if policy.cost.tokens else SINK_AND_WINDOW
        if policy != OFF:
            made[policy.name] = partial(Contestant, policy.name, dit, own, memory=policy)
    return made


def measure(stage: Stage, contestants: Sequence[Contestant]) -> dict[str, dict[int, dict[str, float]]]:
    """Figures of each contestant for each number of hidden blocks, over all trials."""
    return {
        name: {length: figures(found) for length, found in by_length.items()}
        for name, by_length in verdicts(stage, contestants).items()
    }


def verdicts(
    stage: Stage, contestants: Sequence[Contestant]
) -> dict[str, dict[int, list[Remembered | None]]]:
    """The verdict on every trial, of each contestant and number of hidden blocks; None: it told no story."""
    found: dict[str, dict[int, list[Remembered | None]]] = {
        each.name: {length: [] for length in stage.lengths} for each in contestants
    }
    for rows in torch.arange(len(stage.told)).split(stage.batch):
        told, watching = stage.told.select(rows), Watching(stage.eyes)
        for each in contestants:
            for length, walk in lifted(stage, each, told, seed=int(rows[0])).items():
                before = watching.before(walk, told.look_B3, stage.own)
                found[each.name][length] += before.judge(stage.eyes, walk.lifted_BCTHW)
        print(f"{int(rows[-1]) + 1} of {len(stage.told)} trials", file=sys.stderr, flush=True)
    return found


def ceiling(stage: Stage, trials: int = 50) -> dict[int, dict[str, float]]:
    """What is read in the truth after the VAE: nobody can do better."""
    told = stage.told.select(torch.arange(min(trials, len(stage.told))))
    length, frames = ENCODED[HIDDEN], stage.pocket.recipe.block_frames
    story, found = Story(ENCODED[VISIBLE], length, 1), list[Remembered | None]()
    for rows in torch.arange(len(told)).split(stage.batch):
        some = told.select(rows)
        truth, _ = some.assemble(story, frames)
        shown, end = truth[:, :, : story.parts.index(HIDDEN) * frames], truth.shape[2] - frames
        walk = Walk(shown, truth[:, :, end - 2 * frames : end], truth[:, :, end:], length)
        before = Watching(stage.eyes).before(walk, some.look_B3, own=False)
        found += before.judge(stage.eyes, walk.lifted_BCTHW)
    return {length: figures(found)}


def _hidden(blocks: int) -> dict[str, float]:
    window = MEMORY.window_frames or 0
    return {"hidden_blocks": blocks, "hidden_windows": blocks * 3 / window}
