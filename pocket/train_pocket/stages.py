"""The stages of a training in a folder: what each needs, and how it goes on from what is there."""

import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ...model_patches.arch.wan import WanModel
from ...model_patches.checkpoints.checkpoint import DENSE, open_checkpoint
from ...model_patches.vae.load import load_vae
from ...model_patches.vae.wan import WanVAE
from .. import held_out, models
from ..held_out import History
from ..lit_weights import enlarged, save_lit
from .begin import VAE_START, history_after, recipe_at, vae_start
from .checkpointing import WeightAverage
from .clips import PairedClips
from .dit import Trainer, enlarge_text
from .latent_separation import separate_latents
from .light import train_light
from .presets import Preset
from .record import PhaseRecord, begin_or_go_on, digest, read
from .vae import FINAL_FILE, channels_last, restart_decoder, train_vae
from .vae_streaming import polish_decoder
from .whole_file import write_whole


def load_or_train_vae(
    preset: Preset, folder: Path, device: torch.device, start: Path | None = None, train: bool = True
) -> WanVAE:
    """The VAE whose latents the transformer learns: the folder's, where one is final there.

    start: a folder of exported files, to train on from, or without `train` to take as they are.
    """
    if start is None or train or (folder / FINAL_FILE).exists():
        if not (folder / FINAL_FILE).exists():
            begin_or_go_on(folder, {VAE_START: vae_start(start)})
        file = None if start is None else start / models.VAE_FILE
        phases = (preset.vae_phases, preset.vae_probing, preset.vae_streaming, preset.latent_separation)
        vae = train_vae(folder, preset.size, preset.vae_dim, *phases, device, file)
    else:
        vae = load_vae(start / models.VAE_FILE, device=device)
    return channels_last(vae.requires_grad_(False).eval())


def tune_encoder(preset: Preset, folder: Path, device: torch.device, start: Path) -> None:
    """Make the VAE of exported files the folder's, its encoder tuned, unless there is one already."""
    final = folder / FINAL_FILE
    if not final.exists():
        begin_or_go_on(folder, {VAE_START: vae_start(start)})
        vae = channels_last(load_vae(start / models.VAE_FILE, device=device).requires_grad_(False))
        separate_latents(vae, folder, preset.latent_separation, preset.size, device)
        write_whole(final, lambda partial: torch.save(vae.state_dict(), partial))


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
    begun_at = None
    if start is None:
        dit = WanModel(preset.dit)
        enlarge_text(dit)
    else:
        path = start / models.DIT_FILE
        begun_at = digest(path)
        dit = open_checkpoint(path, caller="--start", kind=DENSE).load(torch.float32).requires_grad_(True)
    recipe = replace(preset.recipe, **changes)
    return Trainer(dit.to(device), vae, recipe, folder, start=begun_at)


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


def polish(preset: Preset, vae: WanVAE, folder: Path, device: torch.device, fresh: bool) -> WanVAE:
    """The VAE with its decoder trained on. fresh: from a new decoder, not from the VAE's own."""
    if fresh:
        restart_decoder(vae, folder, preset.decoder_pictures, preset.size, device)
    polish_decoder(vae, folder, preset.decoder_streaming, preset.size, device)
    return with_newest_decoder(vae, folder)


def with_newest_decoder(vae: WanVAE, folder: Path) -> WanVAE:
    """The VAE with the decoder of the folder's newest checkpoint of that training, or with its own."""
    device = next(vae.parameters()).device
    for name in ("vae_polish", "vae_decoder"):
        stored = folder / f"{name}.pt"
        if stored.exists():
            average = WeightAverage(vae.decoder, 0.0)
            average.load_state_dict(torch.load(stored, weights_only=True, map_location=device)["average"])
            vae.decoder.load_state_dict(average.weights())
            return vae
    return vae


def draw_lit(
    preset: Preset,
    vae: WanVAE,
    folder: Path,
    device: torch.device,
    out: Path,
    start: Path | None = None,
    steps: int | None = None,
) -> Path:
    """Train the stages that draw in soft light to the VAE with its newest decoder; the file of them.

    start: the exported files whose VAE it is, None where it is the folder's. steps: in place of the preset's.
    """
    vae = with_newest_decoder(vae, folder)
    phase = preset.decoder_light if steps is None else replace(preset.decoder_light, steps=steps)
    twice = channels_last(enlarged(vae))
    done = train_light(twice, vae, folder, phase, preset.size, device)
    history = History(held_out.fingerprint()) if start is None else history_after(start)
    trained = f"{done} steps of {phase.batch} clips, {time.strftime('%Y-%m-%d')}"
    return save_lit(twice, vae, trained, history, out)


def load_averaged(preset: Preset, folder: Path) -> tuple[WanModel, int, int]:
    """The transformer with its averaged weights, the steps it was trained and the clips of its pools."""
    stored = torch.load(folder / "dit.pt", weights_only=True, map_location="cpu")
    dit = WanModel(preset.dit)
    average = WeightAverage(dit, 0.0)
    average.load_state_dict(stored["average"])
    dit.load_state_dict(average.weights())
    pools = (PairedClips.load(path) for path in folder.glob("clips_*.pt"))
    return dit, stored["step"], sum(map(len, pools))


def export(
    preset: Preset, name: str, vae: WanVAE, folder: Path, out: Path, start: Path | None = None
) -> tuple[Path, Path]:
    """Write the files that are shipped: transformer with its recipe, VAE with its newest decoder.

    start: the exported files the training began at, whose own training the recipe tells first.
    """
    dit, steps, clips = load_averaged(preset, folder)
    begun = PhaseRecord({"start": None if start is None else digest(start / models.DIT_FILE)})
    begun.begin_or_go_on(folder, "dit", steps, writes=False)
    before, history = _history(name, folder, start)
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
        latents=models.fingerprint_of_latents(vae),
        **asdict(history),
    )
    return models.save_dit(dit, recipe, out), models.save_vae(with_newest_decoder(vae, folder), out)


def _history(name: str, folder: Path, start: Path | None) -> tuple[str, History]:
    """What was trained before, and on which combinations all of it was."""
    if start is not None:
        return f"{recipe_at(start).trained}, then", history_after(start)
    vae = read(folder).get(VAE_START) or {}
    return f"{name}:", History(held_out.fingerprint(), vae.get("held_out_after", ""))
