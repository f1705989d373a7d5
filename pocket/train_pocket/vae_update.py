"""One update of a VAE in training: noisy latents, the weighted error of the pixels, AdamW."""

from typing import Any

import torch
from torch import Tensor, nn

from .checkpointing import learning_rate
from .vae_batches import Batch

NOISE = 0.25  # largest spread of the noise on latents while training: the decoder must forgive a denoiser


def adamw(*groups: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW over groups of `params`, each with its `peak` rate."""
    return torch.optim.AdamW(list(groups), lr=0.0, betas=(0.9, 0.98), weight_decay=1e-4)


def set_rates(optimizer: torch.optim.Optimizer, share_done: float) -> None:
    """The learning rate of each group when this share of a phase is done."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(share_done, group["peak"])


def add_noise(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Latents with noise, as much of it for a whole clip: up to `NOISE`."""
    spread = NOISE * torch.rand(len(latents), 1, 1, 1, 1, generator=generator).to(latents.device)
    return latents + spread * torch.randn(latents.shape, generator=generator).to(latents.device)


def update_vae(
    optimizer: torch.optim.Optimizer, rebuilt: Tensor, batch: Batch, more: Tensor | float = 0.0
) -> dict[str, float]:
    """One update towards the pixels of a batch, and less of `more`; the error before it."""
    error = rebuilt.float() - batch.pixels
    loss = (batch.weight * (error.abs() + error.square())).mean() / batch.weight.mean()
    optimizer.zero_grad()
    (loss + more).backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    mse = error.detach().square().mean()
    return {
        "loss": float(loss.detach()),
        "psnr_db": float(10 * (4 / mse).log10()),
        "rate": optimizer.param_groups[0]["lr"],
    }
