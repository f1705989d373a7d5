"""The command: files in, clips drawn, training, export."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path

import torch
from safetensors import safe_open

from ...model_patches.arch.mla import MlaModel
from ...model_patches.arch.wan import WanModel
from ...model_patches.checkpoints.checkpoint import open_checkpoint
from ...model_patches.checkpoints.files import save_tensors
from ...model_patches.memory.load import MemoryFile, load_memory
from ...model_patches.vae.load import load_vae
from ...model_patches.vae.wan import WanVAE
from .. import held_out, hiding, models
from ..held_out import History
from ..hiding import HidingClips
from ..train_pocket import distributed
from ..train_pocket.clips import PairedClips, load_or_draw, made_of
from ..train_pocket.dit import PocketTraining
from ..train_pocket.pool import draw_pool
from ..train_pocket.record import PhaseRecord, begin_or_go_on, digest
from ..train_pocket.vae import channels_last
from . import other_checkpoint
from .export import export
from .learners import learners
from .lessons import CONVERTED, MEMORY, Lessons, Shares
from .lora import Adapters
from .memory_rollout import MemoryRollout
from .own_clips import load_or_stream
from .sparing import spare_ordinary
from .trainer import MemoryTraining, Trainer

ORDINARY_CLIPS, ORDINARY_BLOCKS, FIRST_BLOCKS = 48, 7, 768
BATCH = 8
CONVERTED_RATE = 1e-3  # AdamW, of a converted model's attentions
AFTER = "; with a memory, "  # what stands between a model's training and its lessons


def train(chosen: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    folder = chosen.run or models.RUNS / "memory"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if chosen.texts or chosen.clips or chosen.plan:
            return other_checkpoint.train(chosen, folder)
        dit, pocket = _load_model(chosen.dit)
        begin_or_go_on(folder, {})
        if chosen.processes > 1 and not distributed.is_worker():
            _pools(chosen, pocket, folder)  # drawn once, by one
            return distributed.run_workers(chosen.processes, distributed.same_command())
        with distributed.process_group():
            if chosen.threads and not distributed.is_worker():
                torch.set_num_threads(chosen.threads)
            _train(chosen, dit, pocket, folder)
    except (ValueError, OSError) as error:
        print(f"train-memory: {error}", file=sys.stderr)
        return 2
    return 0


def _load_model(path: Path | None) -> tuple[WanModel, models.Pocket]:
    """The model to be taught, and the pocket's own parts."""
    pocket = models.load_pocket()
    if path is None:
        return pocket.dit, pocket
    checkpoint = open_checkpoint(path, caller="--dit")
    dit = checkpoint.load(torch.float32)
    if recipe := models.recipe_of("--dit", path, checkpoint.metadata):
        _refuse_other(path, recipe, pocket)
    if (dit.text_dim, dit.config.in_channels) != (pocket.dit.text_dim, pocket.dit.config.in_channels):
        raise ValueError(
            f"{path} reads texts {dit.text_dim} wide; stories are told in the pocket world's, "
            f"{pocket.dit.text_dim} wide. Give a pocket model, or --texts or --clips of this one."
        )
    if not isinstance(dit, MlaModel):
        pocket = replace(pocket, dit=dit, recipe=recipe or pocket.recipe)
    return dit, pocket


def _refuse_other(path: Path, recipe: models.PocketRecipe, pocket: models.Pocket) -> None:
    """ValueError for a pocket model that the pocket's own clips and VAE are not for."""
    where = f"--dit {path}"
    recipe.history.trained_on(where, recipe.trained)
    models.refuse_other_recipe(where, recipe, pocket.recipe.size, pocket.recipe.block_frames)
    models.refuse_other_latents(where, path, recipe, pocket.vae)


def _train(chosen: argparse.Namespace, dit: WanModel, pocket: models.Pocket, folder: Path) -> None:
    converted = isinstance(dit, MlaModel)
    changes = {"model_rate": CONVERTED_RATE} if converted else {"encoder": not chosen.keep_encoder}
    recipe = MemoryTraining(**changes)
    recipe = recipe.with_options(chosen.steps, chosen.minutes, chosen.rate, chosen.kept_weight)
    shares = _shares(chosen, converted)
    torch.manual_seed(3)
    memory = load_memory(chosen.encoder, pocket.dit, torch.float32) if chosen.encoder else None
    rollout, adapters = learners(chosen, dit, pocket, memory)
    history = _memory_history(memory)
    training = PocketTraining(size=pocket.recipe.size)
    assert rollout.unchanged is not None
    pools = _pools(chosen, replace(pocket, dit=rollout.unchanged.dit), folder)
    if chosen.spare:
        assert memory is not None and adapters is not None
        spare_ordinary(adapters, pocket, memory, pools[0], chosen.spare)
    lessons = Lessons(_vae(), *pools, training, shares, chosen.batch or BATCH)
    files, rows = _files(chosen), (chosen.batch or BATCH) * chosen.processes
    begun = {name: getattr(chosen, name) for name in ("spare", "streamed")}
    lasting = {"shares": asdict(shares), "batch": rows, **begun, **files}
    phase = PhaseRecord(files) if chosen.only == "export" else recipe.record(lasting)
    trainer = Trainer(rollout, lessons, recipe, folder, adapters, phase)
    if chosen.only == "export":
        trainer.learner.load_state_dict(trainer.average.weights())
    else:
        trainer.train()
    if distributed.rank() or chosen.only == "train":
        return
    spared = f"spared at {chosen.spare:g}, " if chosen.spare else ""
    trained = f"{spared}{trainer.run.step} lessons of {rows}, {time.strftime('%Y-%m-%d')}"
    _write(chosen, folder, trained, history, rollout, adapters, memory)


def _write(
    chosen: argparse.Namespace,
    folder: Path,
    trained: str,
    history: History,
    rollout: MemoryRollout,
    adapters: Adapters | None,
    memory: MemoryFile | None,
) -> None:
    """Export what was trained: a converted model, or a memory with the dense model's changes."""
    out = chosen.out or folder / "export"
    if memory is not None and adapters is None:
        others = [History.of(memory.metadata)]  # its LoRA is in the model
        if chosen.start:
            start = models.recipe_in("--start", open_checkpoint(chosen.start, caller="--start"))
            trained = f"{start.trained.rpartition(AFTER)[2]}, then {trained}"
            others.append(start.history)
        print(export_model(chosen.dit, rollout.dit, out, trained, memory.fingerprint, others))
        return
    assert adapters is not None
    if chosen.go_back:
        adapters.go_back(chosen.go_back)
        trained += f", {chosen.go_back:g} of the way back"
    if memory is not None:
        trained = f"{memory.metadata.get('trained', memory.path.name)}, then {trained}"
    print(export(rollout.encoder, adapters, out / models.MEMORY_FILE, MEMORY.name, trained, history))


def _shares(chosen: argparse.Namespace, converted: bool) -> Shares:
    """How often each kind of lesson comes, as it was asked for."""
    shares = CONVERTED if converted or chosen.teacher else Shares()
    for kind in ("ordinary", "beginnings", "full"):
        if (share := getattr(chosen, kind)) is not None:
            shares = shares.with_share(kind, share)
    if not 0 <= chosen.sampled <= 1:
        raise ValueError(f"--sampled {chosen.sampled}: a share of the ordinary lessons, from 0 to 1.")
    return replace(shares, sampled=chosen.sampled, beside=1.0 if chosen.teacher else shares.beside)


def _files(chosen: argparse.Namespace) -> dict[str, object]:
    """Digests of the files that a training begins at, for its record."""
    paths = {"dit": chosen.dit or models.WEIGHTS / models.DIT_FILE, "encoder": chosen.encoder}
    paths |= {"start": chosen.start}
    if chosen.teacher is not None:
        paths |= {f"teacher_{file}": chosen.teacher / file for file in (models.DIT_FILE, models.MEMORY_FILE)}
    return {name: None if path is None else digest(path) for name, path in paths.items()}


def _memory_history(memory: MemoryFile | None) -> History:
    """Of a memory that is trained on from this file, or from nothing."""
    if memory is None:
        return History(held_out.fingerprint())
    return History.of(memory.metadata).trained_on(f"--encoder {memory.path}", memory.trained)


def export_model(
    source: Path, dit: WanModel, out: Path, trained: str, fingerprint: str, others: Iterable[History]
) -> Path:
    """Write a model whose attentions were trained, under its source's name and `_memory`.

    fingerprint: of its memory, which lies in another file. others: of what else went into the model.
    """
    out.mkdir(parents=True, exist_ok=True)
    with safe_open(source, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    recipe = json.loads(metadata["recipe"])
    before = reduce(History.beside, others, History.of(recipe))
    after = before.trained_on(f"--dit {source}", recipe["trained"])
    taught = {"trained": f"{recipe['trained']}{AFTER}{trained}", "taught": fingerprint}
    metadata["recipe"] = json.dumps(recipe | taught | asdict(after))
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in dit.state_dict().items()}
    path = out / f"{source.stem}_memory.safetensors"
    save_tensors(tensors, path, metadata)
    return path


def _pools(
    chosen: argparse.Namespace, pocket: models.Pocket, folder: Path
) -> tuple[HidingClips, PairedClips, PairedClips | None]:
    """The folder's stories, ordinary clips and, if wanted, first blocks, drawn when first asked for."""
    if chosen.streamed and (chosen.streamed < 0 or chosen.sampled < 1):
        raise ValueError(
            f"--streamed {chosen.streamed}: at least 1 stream, and they have no truth to be graded by; give "
            f"--sampled 1."
        )
    path, training = folder / "stories.pt", PocketTraining()
    vae = _vae()
    if not path.exists():
        _draw_stories(vae, chosen.stories).save(path, made_of(vae))
    stories, sizes = HidingClips.load(path, made_of(vae)), (training.block_frames, training.size)
    beginnings, clips, first = chosen.beginnings > 0, folder / "clips.pt", folder / "clips_first.pt"
    if chosen.streamed:
        return (
            stories,
            load_or_stream(clips, pocket, chosen.streamed, ORDINARY_BLOCKS + 1),
            load_or_stream(first, pocket, FIRST_BLOCKS, 0) if beginnings else None,
        )
    return (
        stories,
        load_or_draw(clips, ORDINARY_CLIPS, ORDINARY_BLOCKS, *sizes, seed=77),
        load_or_draw(first, FIRST_BLOCKS, 1, *sizes, seed=78) if beginnings else None,
    )


def _draw_stories(vae: WanVAE, count: int) -> HidingClips:
    if count < 1:
        raise ValueError(f"--stories {count}: a memory is trained on at least 1.")
    training, generator = PocketTraining(), torch.Generator().manual_seed(41)
    sizes = (training.block_frames, training.size)
    return draw_pool(lambda rows: hiding.draw(vae, rows, *sizes, generator, "seen"), count, "stories")


def _vae() -> WanVAE:
    vae = load_vae(models.WEIGHTS / models.VAE_FILE).requires_grad_(False).eval()
    channels_last(vae)
    return vae
