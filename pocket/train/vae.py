"""Trains the pocket VAE: pictures first, then short clips, on freshly drawn scenes.

While training, latents are in the encoder's own scale; `export` folds the per-channel scale and offset into
the two 1x1 convolutions, so that the shipped file has the statistics Wan 2.1 publishes and core's fixed
numbers fit it.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.vae.wan import (
    LATENTS_MEAN,
    LATENTS_STD,
    TIME_STRIDE,
    CausalConv3d,
    Downsample,
    Upsample,
    WanVAE,
)
from .. import world
from .progress import Average, Run, learning_rate

NOISE = 0.15  # largest spread of the noise on latents while training: the decoder must forgive a denoiser
LATENT_PENALTY = 3e-4
LANES = 16
PIECE_LATENTS = 2  # of one update along a long clip
OBJECT_WEIGHT = 4.0  # extra weight of pixels that are not ground


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of a VAE's training, on clips of one length."""

    frames: int  # pixel frames of a clip
    batch: int
    steps: int
    peak_rate: float


def start_as_pictures(vae: WanVAE) -> None:
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


def channels_last(vae: nn.Module) -> nn.Module:
    """The same module with convolution weights laid out for CPU speed."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return vae


def clip_batch(count: int, frames: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pixels [B, 3, F, H, W] in [-1, 1] and the weight of each pixel [B, 1, F, H, W]."""
    scenes = world.sample_scenes(count, generator, band_share=0.25)
    pictures = world.render(scenes, world.simulate(scenes, frames), size).float()
    ground = world.GROUNDS[scenes.ground_B][:, None, None, None]
    weight = 1 + OBJECT_WEIGHT * ((pictures - ground).abs().amax(-1, keepdim=True) > 12)
    to_model = (0, 4, 1, 2, 3)
    return (pictures / 127.5 - 1).permute(to_model), weight.permute(to_model)


def train_vae(folder: Path, size: int, dim: int, phases: Sequence[Phase], device: torch.device) -> WanVAE:
    """The trained VAE, its latents in the diffusion model's units; goes on from the folder's checkpoints."""
    torch.manual_seed(1)
    vae = WanVAE(dim)
    start_as_pictures(vae)
    channels_last(vae.to(device))
    for index, phase in enumerate(phases):
        _train_phase(vae, folder, f"vae{index}", phase, size, device)
    settled = folder / "vae_settled.pt"
    if settled.exists():
        vae.load_state_dict(torch.load(settled, weights_only=True))
    else:
        mean_C, std_C = latent_statistics(vae, size)
        fold_statistics(vae, mean_C, std_C)
        torch.save(vae.state_dict(), settled)
    return vae


def polish_decoder(vae: WanVAE, folder: Path, phase: Phase, size: int, device: torch.device) -> None:
    """Train the decoder alone, as it is used: piece by piece along long clips, its past handed on.

    Latents, and what was trained on them, stay as they are. A step is one piece of one of `LANES` batches
    of clips, drawn at random, so that steps in a row see other scenes at other ages; gradients end at the
    border of a piece. Many steps in a row on the same clips make it forget the colours of others.
    """
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    weights = vae.decoder.parameters()
    optimizer = torch.optim.AdamW(weights, lr=phase.peak_rate, betas=(0.9, 0.98), weight_decay=1e-4)
    average = Average(vae.decoder, 0.98)
    run = Run(folder, "vae_polish", {"vae": vae, "optimizer": optimizer, "average": average})
    generator = torch.Generator().manual_seed(hash_seed("polish", run.step))
    lanes: list[Iterator[dict[str, float]]] = [iter(()) for _ in range(LANES)]
    while run.step < phase.steps:
        lane = int(torch.randint(LANES, (), generator=generator))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run.step / phase.steps, phase.peak_rate)
        figures = next(lanes[lane], None)
        if figures is None:
            pixels, weight = (t.to(device) for t in clip_batch(phase.batch, phase.frames, size, generator))
            lanes[lane] = _along(vae, optimizer, pixels, weight, generator)
            figures = next(lanes[lane])
        average.update(vae.decoder, run.step)
        run.tick(every=20, **figures)
    run.save()


def _along(
    vae: WanVAE, optimizer: torch.optim.Optimizer, pixels: Tensor, weight: Tensor, generator: torch.Generator
) -> Iterator[dict[str, float]]:
    """One pass along a batch of clips, an update a piece."""
    encoded = decoded = None
    for start in range(0, pixels.shape[2] - 1, PIECE_LATENTS * TIME_STRIDE):
        frames = slice(start + 1 if start else 0, start + 1 + PIECE_LATENTS * TIME_STRIDE)
        some = pixels[:, :, frames]
        with torch.autocast(some.device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                latents, encoded = vae.encode(some.contiguous(memory_format=torch.channels_last_3d), encoded)
            rebuilt, decoded = vae.decode(_noisy(latents, generator), decoded)
        decoded = tuple(past.detach() for past in decoded)
        yield _descend(vae, optimizer, rebuilt, some, weight[:, :, frames]) | {"after_frames": start}


def _train_phase(vae: WanVAE, folder: Path, name: str, phase: Phase, size: int, device: torch.device) -> None:
    weights = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=phase.peak_rate, betas=(0.9, 0.98), weight_decay=1e-4)
    run = Run(folder, name, {"vae": vae, "optimizer": optimizer})
    generator = torch.Generator().manual_seed(hash_seed(name, run.step))
    if run.step >= phase.steps:
        return
    while run.step < phase.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run.step / phase.steps, phase.peak_rate)
        run.tick(every=20, **_step(vae, optimizer, phase, size, generator, device))
    run.save()


def _noisy(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Latents with noise, as much of it for a whole clip: up to `NOISE`."""
    spread = NOISE * torch.rand(len(latents), 1, 1, 1, 1, generator=generator).to(latents.device)
    return latents + spread * torch.randn(latents.shape, generator=generator).to(latents.device)


def hash_seed(name: str, step: int) -> int:
    """A seed of its own for every phase and every start of it."""
    return zlib.crc32(f"{name} {step}".encode())


@torch.no_grad()
def latent_statistics(vae: WanVAE, size: int, clips: int = 48, frames: int = 33) -> tuple[Tensor, Tensor]:
    """Mean and spread per channel over fresh clips.

    The first latent of a clip is left out, it is of another kind.
    """
    generator = torch.Generator().manual_seed(99)
    device = next(vae.parameters()).device
    latents = []
    for _ in range(0, clips, 4):
        pixels, _ = clip_batch(4, frames, size, generator)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            latents.append(vae.encode(pixels.to(device))[0].float().cpu()[:, :, 1:])
    joined = torch.cat(latents).movedim(1, 0).flatten(1)
    return joined.mean(1), joined.std(1)


def _step(
    vae: WanVAE,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    size: int,
    generator: torch.Generator,
    device: torch.device,
) -> dict[str, float]:
    pixels, weight = (t.to(device) for t in clip_batch(phase.batch, phase.frames, size, generator))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        latents, _ = vae.encode(pixels.contiguous(memory_format=torch.channels_last_3d))
        rebuilt, _ = vae.decode(_noisy(latents, generator))
    penalty = LATENT_PENALTY * latents.float().square().mean()
    return _descend(vae, optimizer, rebuilt, pixels, weight, penalty) | {
        "latent_std": float(latents.detach().std())
    }


def _descend(
    vae: WanVAE,
    optimizer: torch.optim.Optimizer,
    rebuilt: Tensor,
    pixels: Tensor,
    weight: Tensor,
    penalty: Tensor | float = 0.0,
) -> dict[str, float]:
    """One update towards the pixels; the weighted error before it."""
    error = rebuilt.float() - pixels
    loss = (weight * (error.abs() + error.square())).mean() / weight.mean()
    optimizer.zero_grad()
    (loss + penalty).backward()
    nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    mse = error.detach().square().mean()
    return {
        "loss": float(loss.detach()),
        "psnr_db": float(10 * (4 / mse).log10()),
        "rate": optimizer.param_groups[0]["lr"],
    }


def fold_statistics(vae: WanVAE, mean_C: Tensor, std_C: Tensor) -> None:
    """Fold z -> (z - mean) / std (units of the diffusion model) into the 1x1 convolutions at the latents."""
    C = vae.latent_channels
    wan_mean, wan_std = torch.tensor(LATENTS_MEAN), torch.tensor(LATENTS_STD)
    raw_mean, raw_std = mean_C * wan_std + wan_mean, std_C * wan_std
    gain = wan_std / raw_std
    offset = wan_mean - raw_mean * gain
    with torch.no_grad():
        vae.conv1.weight[:C] *= gain.view(C, 1, 1, 1, 1)
        vae.conv1.bias[:C] = vae.conv1.bias[:C] * gain + offset
        vae.conv1.weight[C:] = 0
        vae.conv1.bias[C:] = -6.0  # log-variance of a nearly exact posterior
        vae.conv2.bias += vae.conv2.weight[:, :, 0, 0, 0] @ (-offset / gain)
        vae.conv2.weight /= gain.view(1, C, 1, 1, 1)
