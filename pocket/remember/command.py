"""The command: files in, clips drawn, training, export."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...model_patches.arch.detect import load_wan
from ...model_patches.arch.mla import MlaModel
from ...model_patches.arch.mla_load import load_mla
from ...model_patches.arch.nested import is_mla
from ...model_patches.arch.wan import WanModel
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.vae.load import load_vae
from .. import hiding, models
from ..hiding import Hidings
from ..train import processes
from ..train.clips import Clips as Dressed
from ..train.clips import draw_clips
from ..train.dit import Recipe as Training
from ..train.vae import channels_last
from . import ROOT
from .lessons import MEMORY, Lessons, Shares
from .lora import Adapters, merge
from .trainer import Recipe, Trainer
from .walk import MemoryWalker

MEMORY_FILE = "pocket_memory.safetensors"
LORA, ENCODER = "generator_lora.", "query_memory_encoder."  # of the file's keys
ORDINARY_CLIPS, ORDINARY_BLOCKS = 48, 7


def remember(chosen: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    folder = chosen.run or ROOT / "runs" / "memory"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        dit, pocket = _model(chosen.dit)
        if chosen.processes > 1 and not processes.is_worker():
            _pools(folder, chosen.stories)  # drawn once, by one
            return processes.run_workers(chosen.processes, processes.again())
        with processes.together():
            if chosen.threads and not processes.is_worker():
                torch.set_num_threads(chosen.threads)
            _train(chosen, dit, pocket, folder)
    except (ValueError, OSError) as error:
        print(f"train-memory: {error}", file=sys.stderr)
        return 2
    return 0


def export(encoder: MemoryEncoder, adapters: Adapters, out: Path, preset: str, trained: str) -> Path:
    """Write encoder and low-rank changes as half-precision safetensors, under the published names."""
    out.mkdir(parents=True, exist_ok=True)
    config = encoder.config
    about = {
        "frames": config.frames,
        "grid_height": config.grid_height,
        "grid_width": config.grid_width,
        "num_heads": config.num_heads,
        "alpha": adapters.alpha,
        "rank": adapters.rank,
        "preset": preset,
        "trained": trained,
    }
    tensors = {LORA + key: value for key, value in adapters.peft().items()}
    tensors |= {ENCODER + key: value for key, value in encoder.state_dict().items()}
    halves = {key: value.detach().cpu().half().contiguous() for key, value in tensors.items()}
    save_file(halves, out / MEMORY_FILE, {"memory": json.dumps(about)})
    return out / MEMORY_FILE


def load_exported(path: Path) -> tuple[MemoryEncoder, dict[str, Tensor], dict[str, object]]:
    """(encoder, low-rank changes under PEFT's keys, what the file says of itself) of an exported file."""
    with safe_open(path, framework="pt") as file:
        stored = (file.metadata() or {}).get("memory")
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    if stored is None:
        raise ValueError(f"{path} has no `memory` in its metadata; give a file that train-memory exported.")
    about = json.loads(stored)
    lora = {key.removeprefix(LORA): value for key, value in tensors.items() if key.startswith(LORA)}
    state = {key.removeprefix(ENCODER): value for key, value in tensors.items() if key.startswith(ENCODER)}
    sizes = (about[name] for name in ("num_heads", "frames", "grid_height", "grid_width"))
    encoder = MemoryEncoder(
        EncoderConfig(state["query_init"].shape[-1], *sizes, normalize_keys="norm_k_out.weight" in state)
    )
    encoder.load_state_dict(state)
    return encoder, lora, about


def _model(given: Path | None) -> tuple[WanModel, models.Pocket]:
    """The model to be taught, and the pocket's own parts."""
    pocket = models.load_pocket()
    if given is None:
        return pocket.dit, pocket
    with safe_open(given, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    dit = load_mla(given, torch.float32)[0] if is_mla(shapes) else load_wan(given, torch.float32)
    if (dit.text_dim, dit.config.in_channels) != (pocket.dit.text_dim, pocket.dit.config.in_channels):
        raise ValueError(
            f"{given} reads texts {dit.text_dim} wide; stories are told in the pocket world's, "
            f"{pocket.dit.text_dim} wide. Give a pocket model."
        )
    return dit, pocket


def _train(chosen: argparse.Namespace, dit: WanModel, pocket: models.Pocket, folder: Path) -> None:
    recipe = replace(
        Recipe(),
        **{key: value for key in ("steps", "minutes") if (value := getattr(chosen, key)) is not None},
    )
    torch.manual_seed(3)
    encoder, adapters = _learners(chosen, dit, pocket)
    training = Training(size=pocket.recipe.size)
    hidings, dressed = _pools(folder, chosen.stories)
    vae = channels_last(pocket.vae.requires_grad_(False).eval())
    lessons = Lessons(vae, hidings, dressed, training, Shares(), chosen.batch)
    walker = MemoryWalker(dit, encoder, training.block_frames)
    trainer = Trainer(walker, lessons, recipe, folder, adapters)
    if chosen.only == "export":
        trainer.learner.load_state_dict(trainer.average.weights())
    else:
        trainer.train()
    if processes.rank() or chosen.only == "train":
        return
    said = f"{trainer.run.step} lessons of {chosen.batch * chosen.processes}, {time.strftime('%Y-%m-%d')}"
    out = chosen.out or folder / "export"
    if adapters is not None:
        print(export(encoder, adapters, out, MEMORY.name, said))
    else:
        print(export_model(chosen.dit, dit, encoder, out, said))


def export_model(given: Path, dit: WanModel, encoder: MemoryEncoder, out: Path, said: str) -> Path:
    """Write a model that was trained whole under the name it came with, and the encoder into it."""
    out.mkdir(parents=True, exist_ok=True)
    with safe_open(given, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    recipe = json.loads(metadata["recipe"])
    metadata["recipe"] = json.dumps(recipe | {"trained": f"{recipe['trained']}; with a memory, {said}"})
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in dit.state_dict().items()}
    save_file(tensors, out / given.name, metadata)
    return out / given.name


def _learners(
    chosen: argparse.Namespace, dit: WanModel, pocket: models.Pocket
) -> tuple[MemoryEncoder, Adapters | None]:
    """The encoder, and the model's low-rank changes; a converted model has none, it is trained itself."""
    recipe = pocket.recipe
    grid = Geometry(recipe.size, recipe.size)
    if chosen.encoder is not None:
        encoder, lora, about = load_exported(chosen.encoder)
    else:
        frames = MEMORY.memory_frames
        sizes = EncoderConfig(dit.dim, dit.num_heads, frames, grid.grid_height, grid.grid_width)
        encoder, lora, about = MemoryEncoder(sizes), {}, {}
    if isinstance(dit, MlaModel):
        return encoder, None
    if lora:
        merge(dit, lora, float(str(about["alpha"])))
    return encoder, Adapters(dit, chosen.rank, float(chosen.rank))


def _pools(folder: Path, stories: int) -> tuple[Hidings, Dressed]:
    """The folder's stories and ordinary clips, drawn when first asked for."""
    told, ordinary = folder / "stories.pt", folder / "clips.pt"
    training, generator = Training(), torch.Generator().manual_seed(41)
    if not (told.exists() and ordinary.exists()):
        vae = channels_last(load_vae(models.WEIGHTS / models.VAE_FILE).requires_grad_(False).eval())
    if not told.exists():
        pool = hiding.draw(vae, min(16, stories), training.block_frames, training.size, generator)
        while len(pool) < stories:
            more = hiding.draw(vae, 16, training.block_frames, training.size, generator)
            pool = pool.joined(more, stories)
            print(f"{len(pool)} of {stories} stories drawn", file=sys.stderr, flush=True)
        torch.save([pool.latents_BCTHW, pool.texts_BPLE, pool.look_B3], told)
    if not ordinary.exists():
        drawn = draw_clips(
            vae, ORDINARY_CLIPS, ORDINARY_BLOCKS, training.block_frames, training.size, generator
        )
        torch.save([drawn.latents_BVCTHW, drawn.texts_BVLC, drawn.named_B], ordinary)
    return (
        Hidings(*torch.load(told, weights_only=True)),
        Dressed(*torch.load(ordinary, weights_only=True)),
    )
