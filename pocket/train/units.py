"""The units of the pocket VAE's latents: what the diffusion model expects, whatever training made of them.

While training, latents are in the encoder's own scale; `fold_statistics` moves the per-channel scale and
offset into the two 1x1 convolutions, so that the shipped file has the statistics Wan 2.1 publishes and core's
fixed numbers fit it.
"""

import torch
from torch import Tensor

from ...model_patches.vae.wan import LATENTS_MEAN, LATENTS_STD, WanVAE
from .batches import clip_batch


@torch.no_grad()
def latent_statistics(vae: WanVAE, size: int, clips: int = 48, frames: int = 33) -> tuple[Tensor, Tensor]:
    """Mean and spread per channel over fresh clips.

    The first latent of a clip is left out, it is of another kind.
    """
    generator = torch.Generator().manual_seed(99)
    device = next(vae.parameters()).device
    latents = []
    for _ in range(0, clips, 4):
        pixels = clip_batch(4, frames, size, generator).pixels
        with torch.autocast(device.type, dtype=torch.bfloat16):
            latents.append(vae.encode(pixels.to(device))[0].float().cpu()[:, :, 1:])
    joined = torch.cat(latents).movedim(1, 0).flatten(1)
    return joined.mean(1), joined.std(1)


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
