"""The command: files in, clips drawn, training, export."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open

from ...model_patches.arch.mla import MlaModel
from ...model_patches.arch.wan import WanModel
from ...model_patches.checkpoints.checkpoint import VIDEO_MLA, open_checkpoint
from ...model_patches.checkpoints.files import save_tensors
from ...model_patches.checkpoints.lora import Lora
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.memory.load import MemoryFile, load_memory
from ...model_patches.memory.reorder import reorder_encoder
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
from .lessons import CONVERTED, MEMORY, Lessons, Shares
from .lora import Adapters
from .memory_rollout import MemoryRollout
from .trainer import MemoryTraining, Trainer

ORDINARY_CLIPS, ORDINARY_BLOCKS, FIRST_BLOCKS = 48, 7, 768
RANK, BATCH = 24, 8
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
            _pools(folder, chosen.stories, chosen.beginnings > 0)  # drawn once, by one
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
    rollout, adapters = _learners(chosen, dit, pocket, memory)
    history = _memory_history(memory)
    training = PocketTraining(size=pocket.recipe.size)
    pools = _pools(folder, chosen.stories, chosen.beginnings > 0)
    lessons = Lessons(_vae(), *pools, training, shares, chosen.batch or BATCH)
    files = _files(chosen)
    lasting = {"shares": asdict(shares), "batch": (chosen.batch or BATCH) * chosen.processes, **files}
    phase = PhaseRecord(files) if chosen.only == "export" else recipe.record(lasting)
    trainer = Trainer(rollout, lessons, recipe, folder, adapters, phase)
    if chosen.only == "export":
        trainer.learner.load_state_dict(trainer.average.weights())
    else:
        trainer.train()
    if distributed.rank() or chosen.only == "train":
        return
    rows = (chosen.batch or BATCH) * chosen.processes
    trained = f"{trainer.run.step} lessons of {rows}, {time.strftime('%Y-%m-%d')}"
    out = chosen.out or folder / "export"
    if memory is not None and adapters is None:
        if chosen.start:
            start = models.recipe_in("--start", open_checkpoint(chosen.start, caller="--start"))
            trained = f"{start.trained.rpartition(AFTER)[2]}, then {trained}"
        print(export_model(chosen.dit, rollout.dit, out, trained, memory.fingerprint))
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
    shares = CONVERTED if converted else Shares()
    for kind in ("ordinary", "beginnings", "full"):
        if (share := getattr(chosen, kind)) is not None:
            shares = shares.with_share(kind, share)
    if not 0 <= chosen.sampled <= 1:
        raise ValueError(f"--sampled {chosen.sampled}: a share of the ordinary lessons, from 0 to 1.")
    return replace(shares, sampled=chosen.sampled)


def _files(chosen: argparse.Namespace) -> dict[str, object]:
    """Digests of the files that a training begins at, for its record."""
    paths = {"dit": chosen.dit or models.WEIGHTS / models.DIT_FILE, "encoder": chosen.encoder}
    paths |= {"start": chosen.start}
    return {name: None if path is None else digest(path) for name, path in paths.items()}


def _memory_history(memory: MemoryFile | None) -> History:
    """Of a memory that is trained on from this file, or from nothing."""
    if memory is None:
        return History(held_out.fingerprint())
    return History.of(memory.metadata).trained_on(f"--encoder {memory.path}", memory.trained)


def export_model(source: Path, dit: WanModel, out: Path, trained: str, fingerprint: str) -> Path:
    """Write a model whose attentions were trained, under its source's name and `_memory`.

    fingerprint: of its memory, which lies in another file.
    """
    out.mkdir(parents=True, exist_ok=True)
    with safe_open(source, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    recipe = json.loads(metadata["recipe"])
    after = History.of(recipe).trained_on(f"--dit {source}", recipe["trained"])
    taught = {"trained": f"{recipe['trained']}{AFTER}{trained}", "taught": fingerprint}
    metadata["recipe"] = json.dumps(recipe | taught | asdict(after))
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in dit.state_dict().items()}
    path = out / f"{source.stem}_memory.safetensors"
    save_tensors(tensors, path, metadata)
    return path


def _learners(
    chosen: argparse.Namespace, dit: WanModel, pocket: models.Pocket, memory: MemoryFile | None
) -> tuple[MemoryRollout, Adapters | None]:
    """The model with its encoder, and its low-rank changes; a converted model has none.

    It is trained itself, after the dense model that reads the same memory.
    """
    if not 0 <= chosen.go_back < 1:
        raise ValueError(f"--go-back {chosen.go_back}: a share of the way, at least 0 and less than 1.")
    frames = pocket.recipe.block_frames
    if isinstance(dit, MlaModel):
        if memory is None or memory.lora is None:
            raise ValueError(
                "a converted model learns to read a memory that is there: train one with the dense model "
                "first, and give its file as --encoder."
            )
        if chosen.go_back:
            raise ValueError("--go-back is for the dense model's low-rank changes; a converted one has none.")
        teacher = MemoryRollout(memory.lora.merge(pocket.dit).requires_grad_(False), memory.encoder, frames)
        student = shared_layers(memory.lora).merge(dit)
        if chosen.start:
            load_attentions(student, chosen.start, memory.fingerprint)
        unchanged = MemoryRollout(pocket.dit, memory.encoder, frames)
        encoder = reorder_encoder(memory.encoder, dit.rope_layout)
        return MemoryRollout(student, encoder, frames, teacher, unchanged, sampler=pocket.config()), None
    if chosen.start:
        raise ValueError(
            "--start is for a converted model; a dense one goes on from its --encoder's changes."
        )
    if (memory is None or memory.lora is None) and (chosen.keep_encoder or chosen.go_back):
        raise ValueError(
            "--keep-encoder and --go-back leave more or less of a trained memory as it is; give its file as "
            "--encoder."
        )
    grid = Geometry(pocket.recipe.size, pocket.recipe.size)
    places = (MEMORY.memory_frames, grid.grid_height, grid.grid_width)
    encoder = memory.encoder if memory else MemoryEncoder(EncoderConfig(dit.dim, dit.num_heads, *places))
    unchanged = MemoryRollout(copy.deepcopy(dit), encoder, frames)
    lora = memory.lora if memory else None
    rank = chosen.rank or (lora.ranks[0] if lora else RANK)
    adapters = Adapters.from_lora(dit, lora, rank)
    return MemoryRollout(dit, encoder, frames, unchanged=unchanged, sampler=pocket.config()), adapters


def load_attentions(dit: MlaModel, start: Path, fingerprint: str) -> None:
    """Give a converted model the self-attentions of a file that was taught the memory of this fingerprint."""
    checkpoint = open_checkpoint(start, caller="--start", kind=VIDEO_MLA)
    other = checkpoint.load(torch.float32)
    assert isinstance(other, MlaModel)
    if other.config != dit.config or other.sizes != dit.sizes:
        raise ValueError(f"--start {start}: a model of other sizes than --dit; give one that was made of it.")
    if models.recipe_in("--start", checkpoint).taught != fingerprint:
        raise ValueError(
            f"--start {start} was not taught the memory of --encoder; give the file that was taught it."
        )
    for ours, theirs in zip(dit.blocks, other.blocks, strict=True):
        ours.self_attn.load_state_dict(theirs.self_attn.state_dict())


def shared_layers(lora: Lora) -> Lora:
    """The changes a converted model can take over: of the layers it has in common with the dense one."""
    return Lora(
        {
            name: factors
            for name, factors in lora.layers.items()
            if ".self_attn." not in name or name.endswith(".self_attn.o")
        }
    )


def _pools(
    folder: Path, stories: int, beginnings: bool
) -> tuple[HidingClips, PairedClips, PairedClips | None]:
    """The folder's stories, ordinary clips and, if wanted, first blocks, drawn when first asked for."""
    path, training = folder / "stories.pt", PocketTraining()
    vae = _vae()
    if not path.exists():
        _draw_stories(vae, stories).save(path, made_of(vae))
    sizes = (training.block_frames, training.size)
    return (
        HidingClips.load(path, made_of(vae)),
        load_or_draw(folder / "clips.pt", ORDINARY_CLIPS, ORDINARY_BLOCKS, *sizes, seed=77),
        load_or_draw(folder / "clips_first.pt", FIRST_BLOCKS, 1, *sizes, seed=78) if beginnings else None,
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
