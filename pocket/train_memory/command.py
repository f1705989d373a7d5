"""The command: files in, clips drawn, training, export."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import replace
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
from ...model_patches.memory.reorder import for_layout
from ...model_patches.vae.load import load_vae
from ...model_patches.vae.wan import WanVAE
from .. import hiding, models
from ..hiding import Hidings
from ..train_pocket import distributed as processes
from ..train_pocket.clips import Clips as Dressed
from ..train_pocket.clips import kept_clips
from ..train_pocket.dit import PocketTraining
from ..train_pocket.vae import channels_last
from . import other_checkpoint as checkpoint
from .export import export
from .lessons import CONVERTED, MEMORY, Lessons, Shares
from .lora import Adapters
from .memory_rollout import MemoryWalker
from .trainer import MemoryTraining, Trainer

ORDINARY_CLIPS, ORDINARY_BLOCKS, FIRST_BLOCKS = 48, 7, 768
RANK, BATCH = 24, 8
CONVERTED_RATE = 1e-3  # AdamW, of a converted model's attentions
AFTER = "; with a memory, "  # what stands between a model's training and its lessons


def remember(chosen: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    folder = chosen.run or models.RUNS / "memory"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if chosen.texts or chosen.clips or chosen.plan:
            return checkpoint.remember(chosen, folder)
        dit, pocket = _model(chosen.dit)
        if chosen.processes > 1 and not processes.is_worker():
            _pools(folder, chosen.stories, chosen.beginnings > 0)  # drawn once, by one
            return processes.run_workers(chosen.processes, processes.again())
        with processes.together():
            if chosen.threads and not processes.is_worker():
                torch.set_num_threads(chosen.threads)
            _train(chosen, dit, pocket, folder)
    except (ValueError, OSError) as error:
        print(f"train-memory: {error}", file=sys.stderr)
        return 2
    return 0


def _model(given: Path | None) -> tuple[WanModel, models.Pocket]:
    """The model to be taught, and the pocket's own parts."""
    pocket = models.load_pocket()
    if given is None:
        return pocket.dit, pocket
    dit = open_checkpoint(given, caller="--dit").load(torch.float32)
    if (dit.text_dim, dit.config.in_channels) != (pocket.dit.text_dim, pocket.dit.config.in_channels):
        raise ValueError(
            f"{given} reads texts {dit.text_dim} wide; stories are told in the pocket world's, "
            f"{pocket.dit.text_dim} wide. Give a pocket model, or --texts or --clips of this one."
        )
    return dit, pocket


def _train(chosen: argparse.Namespace, dit: WanModel, pocket: models.Pocket, folder: Path) -> None:
    converted = isinstance(dit, MlaModel)
    changes = {"model_rate": CONVERTED_RATE} if converted else {"encoder": not chosen.keep_encoder}
    recipe = MemoryTraining(**changes)
    recipe = recipe.told(chosen.steps, chosen.minutes, chosen.rate, chosen.kept_weight)
    shares = CONVERTED if converted else Shares()
    for kind in ("ordinary", "beginnings", "full"):
        if (share := getattr(chosen, kind)) is not None:
            shares = shares.with_share(kind, share)
    if not 0 <= chosen.sampled <= 1:
        raise ValueError(f"--sampled {chosen.sampled}: a share of the ordinary lessons, from 0 to 1.")
    shares = replace(shares, sampled=chosen.sampled)
    torch.manual_seed(3)
    found = load_memory(chosen.encoder, pocket.dit, torch.float32) if chosen.encoder else None
    walker, adapters = _learners(chosen, dit, pocket, found)
    training = PocketTraining(size=pocket.recipe.size)
    pools = _pools(folder, chosen.stories, chosen.beginnings > 0)
    lessons = Lessons(_vae(), *pools, training, shares, chosen.batch or BATCH)
    trainer = Trainer(walker, lessons, recipe, folder, adapters)
    if chosen.only == "export":
        trainer.learner.load_state_dict(trainer.average.weights())
    else:
        trainer.train()
    if processes.rank() or chosen.only == "train":
        return
    rows = (chosen.batch or BATCH) * chosen.processes
    said = f"{trainer.run.step} lessons of {rows}, {time.strftime('%Y-%m-%d')}"
    out = chosen.out or folder / "export"
    if found is not None and adapters is None:
        if chosen.start:
            start = open_checkpoint(chosen.start, caller="--start")
            said = f"{models.recipe_in('--start', start).trained.rpartition(AFTER)[2]}, then {said}"
        print(export_model(chosen.dit, walker.dit, out, said, found.fingerprint))
        return
    assert adapters is not None
    if chosen.go_back:
        adapters.go_back(chosen.go_back)
        said += f", {chosen.go_back:g} of the way back"
    if found is not None:
        said = f"{found.metadata.get('trained', found.path.name)}, then {said}"
    print(export(walker.encoder, adapters, out / models.MEMORY_FILE, MEMORY.name, said))


def export_model(given: Path, dit: WanModel, out: Path, said: str, taught: str) -> Path:
    """Write a model whose attentions were trained, under the name it came with and `_memory`.

    Its memory is a file apart. taught: that one's fingerprint.
    """
    out.mkdir(parents=True, exist_ok=True)
    with safe_open(given, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    recipe = json.loads(metadata["recipe"])
    trained = f"{recipe['trained']}{AFTER}{said}"
    metadata["recipe"] = json.dumps(recipe | {"trained": trained, "taught": taught})
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in dit.state_dict().items()}
    path = out / f"{given.stem}_memory.safetensors"
    save_tensors(tensors, path, metadata)
    return path


def _learners(
    chosen: argparse.Namespace, dit: WanModel, pocket: models.Pocket, found: MemoryFile | None
) -> tuple[MemoryWalker, Adapters | None]:
    """The model with its encoder, and its low-rank changes; a converted model has none.

    It is trained itself, after the dense model that reads the same memory.
    """
    if not 0 <= chosen.go_back < 1:
        raise ValueError(f"--go-back {chosen.go_back}: a share of the way, at least 0 and less than 1.")
    frames = pocket.recipe.block_frames
    if isinstance(dit, MlaModel):
        if found is None or found.lora is None:
            raise ValueError(
                "a converted model learns to read a memory that is there: train one with the dense model "
                "first, and give its file as --encoder."
            )
        if chosen.go_back:
            raise ValueError("--go-back is for the dense model's low-rank changes; a converted one has none.")
        teacher = MemoryWalker(found.lora.merged(pocket.dit).requires_grad_(False), found.encoder, frames)
        begun = outside_attention(found.lora).merged(dit)
        if chosen.start:
            take_attentions(begun, chosen.start, found.fingerprint)
        was = MemoryWalker(pocket.dit, found.encoder, frames)
        own = for_layout(found.encoder, dit.rope_layout)
        return MemoryWalker(begun, own, frames, teacher, was, sampler=pocket.config()), None
    if chosen.start:
        raise ValueError(
            "--start is for a converted model; a dense one goes on from its --encoder's changes."
        )
    if (found is None or found.lora is None) and (chosen.keep_encoder or chosen.go_back):
        raise ValueError(
            "--keep-encoder and --go-back leave more or less of a trained memory as it is; give its file as "
            "--encoder."
        )
    grid = Geometry(pocket.recipe.size, pocket.recipe.size)
    places = (MEMORY.memory_frames, grid.grid_height, grid.grid_width)
    encoder = found.encoder if found else MemoryEncoder(EncoderConfig(dit.dim, dit.num_heads, *places))
    was = MemoryWalker(copy.deepcopy(dit), encoder, frames)
    lora = found.lora if found else None
    rank = chosen.rank or (lora.ranks[0] if lora else RANK)
    adapters = Adapters.going_on(dit, lora, rank)
    return MemoryWalker(dit, encoder, frames, before=was, sampler=pocket.config()), adapters


def take_attentions(dit: MlaModel, start: Path, fingerprint: str) -> None:
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


def outside_attention(lora: Lora) -> Lora:
    """The changes a converted model can take over: of the layers it has in common with the dense one."""
    return Lora(
        {
            name: factors
            for name, factors in lora.layers.items()
            if ".self_attn." not in name or name.endswith(".self_attn.o")
        }
    )


def _pools(folder: Path, stories: int, beginnings: bool) -> tuple[Hidings, Dressed, Dressed | None]:
    """The folder's stories, ordinary clips and, if wanted, first blocks, drawn when first asked for."""
    told, training = folder / "stories.pt", PocketTraining()
    if not told.exists():
        pool = _stories(stories)
        torch.save([pool.latents_BCTHW, pool.texts_BPLE, pool.look_B3], told)
    sizes = (training.block_frames, training.size)
    return (
        Hidings(*torch.load(told, weights_only=True)),
        kept_clips(folder / "clips.pt", ORDINARY_CLIPS, ORDINARY_BLOCKS, *sizes, seed=77),
        kept_clips(folder / "clips_first.pt", FIRST_BLOCKS, 1, *sizes, seed=78) if beginnings else None,
    )


def _stories(count: int) -> Hidings:
    training, generator, vae = PocketTraining(), torch.Generator().manual_seed(41), _vae()
    pool: Hidings | None = None
    for done in range(0, count, 16):
        some = min(16, count - done)
        new = hiding.draw(vae, some, training.block_frames, training.size, generator)
        pool = new if pool is None else pool.joined(new, count)
        print(f"{len(pool)} of {count} stories drawn", file=sys.stderr, flush=True)
    if pool is None:
        raise ValueError(f"--stories {count}: a memory is trained on at least 1.")
    return pool


def _vae() -> WanVAE:
    vae = load_vae(models.WEIGHTS / models.VAE_FILE).requires_grad_(False).eval()
    channels_last(vae)
    return vae
