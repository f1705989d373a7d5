"""Trains the pocket VAE: on whole short clips, with a probe, piece by piece along clips; at last its decoder.

The encoder is final before the transformer sees a latent. The decoder may be trained on at any time: it
starts afresh on pictures in large batches, which teach edges and colours, and goes on along clips.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ...model_patches.vae.load import load_vae
from ...model_patches.vae.wan import CausalConv3d, Downsample, Upsample, WanVAE
from ..half_products import half_products
from .checkpointing import Run, WeightAverage, hash_seed
from .latent_probe import LatentProbe, train_probe
from .latent_scaling import fold_map, look_scatters, sample_latents, separating_map
from .latent_separation import separate_latents
from .single_frame import decode_first_frame, encode_frame
from .vae_batches import Phase, clip_batch
from .vae_streaming import train_streaming
from .vae_update import adamw, add_noise, set_rates, update_vae
from .whole_file import write_whole

FINAL_FILE = "vae_settled.pt"  # in a training's folder: the VAE whose latents the transformer learns


def start_per_frame(vae: WanVAE) -> None:
    """Make a fresh VAE treat each frame alone and repeat it in time.

    So what pictures teach holds for clips.
    """
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, CausalConv3d) and module.kernel_size == (3, 3, 3):
                module.weight[:, :, :2] = 0
            elif isinstance(module, (Downsample, Upsample)) and module.time:
                conv = module.time_conv
                conv.weight.zero_()
                conv.bias.zero_()
                conv.weight[:, :, 2, 0, 0] = torch.eye(conv.in_channels).repeat(
                    conv.out_channels // conv.in_channels, 1
                )


def train_vae(
    folder: Path,
    size: int,
    dim: int,
    phases: Sequence[Phase],
    probing: Phase,
    streaming: Phase,
    separation: Phase,
    device: torch.device,
    start: Path | None = None,
) -> WanVAE:
    """The trained VAE, its latents standardized; goes on from the folder's checkpoints.

    start: a VAE file to train on from, without the phases on whole short clips.
    """
    final = folder / FINAL_FILE
    if final.exists():
        vae = WanVAE(dim)
        vae.load_state_dict(torch.load(final, weights_only=True, map_location="cpu"))
        return vae.to(device)
    torch.manual_seed(1)
    if start is None:
        vae = WanVAE(dim)
        start_per_frame(vae)
    else:
        vae = load_vae(start).requires_grad_(True)
    probe = LatentProbe(vae.latent_channels).to(device)
    channels_last(vae.to(device))
    for index, phase in enumerate(phases if start is None else ()):
        _whole_clips(vae, folder, f"vae{index}", phase, size, device)
    train_probe(vae, probe, folder, probing, size, device)
    train_streaming(vae, probe, folder, streaming, size, device)
    vae.requires_grad_(False)
    fold_map(vae, *separating_map(sample_latents(vae, size), look_scatters(vae, size)))
    separate_latents(vae, folder, separation, size, device)
    write_whole(final, lambda partial: torch.save(vae.state_dict(), partial))
    return vae


def _whole_clips(vae: WanVAE, folder: Path, name: str, phase: Phase, size: int, device: torch.device) -> None:
    """One stretch on whole short clips."""
    optimizer = adamw({"peak": phase.peak_rate, "params": [*vae.parameters()]})
    run = Run(folder, name, {"vae": vae, "optimizer": optimizer}, phase=phase.record(size))
    generator = torch.Generator().manual_seed(hash_seed(name, run.step))
    if run.step >= phase.steps:
        return
    while run.step < phase.steps:
        set_rates(optimizer, run.step / phase.steps)
        batch = clip_batch(phase.batch, phase.frames, size, generator).to(device)
        with half_products(device):
            latents, _ = vae.encode(batch.pixels.contiguous(memory_format=torch.channels_last_3d))
            rebuilt, _ = vae.decode(add_noise(latents, generator))
        run.tick(every=20, **update_vae(optimizer, rebuilt, batch))
    run.save()


def restart_decoder(vae: WanVAE, folder: Path, phase: Phase, size: int, device: torch.device) -> None:
    """Train a fresh decoder on pictures, each as the first of a stream; it is left with its averaged weights.

    The encoder must be final. A fresh decoder repeats in time what it does to one picture, so what it
    learns here holds for clips, but for motion within a latent.
    """
    torch.manual_seed(3)
    fresh = WanVAE(vae.encoder.conv1.out_channels, vae.latent_channels)
    start_per_frame(fresh)
    vae.requires_grad_(False)
    vae.decoder = channels_last(fresh.decoder.to(device))
    optimizer = adamw({"peak": phase.peak_rate, "params": [*vae.decoder.parameters()]})
    average = WeightAverage(vae.decoder, 0.99)
    parts = {"decoder": vae.decoder, "optimizer": optimizer, "average": average}
    run = Run(folder, "vae_decoder", parts, phase=phase.record(size, of=vae))
    generator = torch.Generator().manual_seed(hash_seed("vae_decoder", run.step))
    while run.step < phase.steps:
        set_rates(optimizer, run.step / phase.steps)
        batch = clip_batch(phase.batch, 1, size, generator).to(device)
        pixels = batch.pixels[:, :, 0].contiguous(memory_format=torch.channels_last)
        with half_products(device):
            with torch.no_grad():
                latents = encode_frame(vae, pixels, first=run.step % 2 == 0)
            rebuilt = decode_first_frame(vae, add_noise(latents.float(), generator))
        figures = update_vae(optimizer, rebuilt, batch)
        average.update(vae.decoder, run.step)
        run.tick(every=20, **figures)
    run.save()
    vae.decoder.load_state_dict(average.weights())


def channels_last(module: nn.Module) -> nn.Module:
    """The same module with convolution weights laid out for CPU speed."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    return module
