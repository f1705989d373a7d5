"""The parts of a training in a folder: what each needs, and how it goes on from what is there."""

import time
from dataclasses import replace
from pathlib import Path

import torch

from ...model_patches.arch.wan import WanModel
from ...model_patches.checkpoints.checkpoint import DENSE, open_checkpoint
from ...model_patches.vae.load import load_vae
from ...model_patches.vae.wan import WanVAE
from .. import models
from .checkpointing import Average
from .dit import Trainer, enlarge_text
from .latent_separation import tell_apart
from .presets import Preset
from .vae import SETTLED, channels_last, restart_decoder, train_vae
from .vae_streaming import polish_decoder


def settled_vae(
    preset: Preset, folder: Path, device: torch.device, start: Path | None = None, train: bool = True
) -> WanVAE:
    """The VAE whose latents the transformer learns: the folder's, where one is settled there.

    start: a folder of exported files, to train on from, or without `train` to take as they are.
    """
    if start is None or train or (folder / SETTLED).exists():
        file = None if start is None else start / models.VAE_FILE
        phases = (preset.vae_phases, preset.vae_reading, preset.vae_along, preset.vae_apart)
        vae = train_vae(folder, preset.size, preset.vae_dim, *phases, device, file)
    else:
        vae = load_vae(start / models.VAE_FILE, device=device)
    return channels_last(vae.requires_grad_(False).eval())


def settle_told_apart(preset: Preset, folder: Path, device: torch.device, start: Path) -> None:
    """Settle the VAE of exported files in the folder, its encoder tuned, unless one is settled there."""
    settled = folder / SETTLED
    if not settled.exists():
        vae = channels_last(load_vae(start / models.VAE_FILE, device=device).requires_grad_(False))
        tell_apart(vae, folder, preset.vae_apart, preset.size, device)
        torch.save(vae.state_dict(), settled)


def new_trainer(
    preset: Preset,
    vae: WanVAE,
    folder: Path,
    device: torch.device,
    start: Path | None = None,
    **changes: object,
) -> Trainer:
    """A trainer where the folder's newest checkpoint stands, else at `start`, else at the beginning.

    changes: fields of the recipe.
    """
    torch.manual_seed(2)
    if start is None:
        dit = WanModel(preset.dit)
        enlarge_text(dit)
    else:
        path = start / models.DIT_FILE
        dit = open_checkpoint(path, caller="--start", kind=DENSE).load(torch.float32).requires_grad_(True)
    return Trainer(dit.to(device), vae, replace(preset.recipe, **changes), folder)


def train_dit(
    preset: Preset,
    vae: WanVAE,
    folder: Path,
    device: torch.device,
    start: Path | None,
    compiled: bool,
    changes: dict[str, object],
) -> None:
    """Train the transformer to its last step; one of several processes, or the only one."""
    trainer = new_trainer(preset, vae, folder, device, start, **changes)
    if compiled:
        trainer.teacher.compile_blocks()
    trainer.train()


def polished(
    preset: Preset, vae: WanVAE, folder: Path, device: torch.device, train: bool, afresh: bool = True
) -> WanVAE:
    """The VAE with its decoder trained on, or with the newest state of that training if there is one.

    afresh: the training begins with a fresh decoder, not with the VAE's own.
    """
    if train:
        if afresh:
            restart_decoder(vae, folder, preset.decoder_pictures, preset.size, device)
        polish_decoder(vae, folder, preset.decoder_along, preset.size, device)
    for name in ("vae_polish", "vae_decoder"):
        stored = folder / f"{name}.pt"
        if stored.exists():
            average = Average(vae.decoder, 0.0)
            average.load_state_dict(torch.load(stored, weights_only=True, map_location=device)["average"])
            vae.decoder.load_state_dict(average.weights())
            return vae
    return vae


def averaged(preset: Preset, folder: Path) -> tuple[WanModel, int, int]:
    """The transformer with its averaged weights, the steps it was trained and the clips of its pools."""
    stored = torch.load(folder / "dit.pt", weights_only=True, map_location="cpu")
    dit = WanModel(preset.dit)
    average = Average(dit, 0.0)
    average.load_state_dict(stored["average"])
    dit.load_state_dict(average.weights())
    pools = (torch.load(path, weights_only=True) for path in folder.glob("clips_*.pt"))
    return dit, stored["step"], sum(len(pool[0]) for pool in pools)


def export(
    preset: Preset, name: str, vae: WanVAE, folder: Path, out: Path, start: Path | None = None
) -> tuple[Path, Path]:
    """Write the files that are shipped: transformer with its recipe, VAE with its newest decoder.

    start: the exported files the training began at, whose own training the recipe tells first.
    """
    dit, steps, clips = averaged(preset, folder)
    before = f"{name}:" if start is None else f"{models.load_pocket(start).recipe.trained}, then"
    recipe = models.PocketRecipe(
        preset.size,
        preset.fps,
        preset.position_preset,
        preset.recipe.block_frames,
        preset.timesteps,
        preset.recipe.shift,
        preset.cfg,
        f"{before} {steps} steps, {clips} clips, {time.strftime('%Y-%m-%d')}",
        preset.fresh_noise,
        preset.first_timesteps,
    )
    newest = polished(preset, vae, folder, next(vae.parameters()).device, train=False)
    return models.save_dit(dit, recipe, out), models.save_vae(newest, out)
