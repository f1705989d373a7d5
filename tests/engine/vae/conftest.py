import pytest
import torch
from rivulet.model_patches.vae.wan import WanVAE

LATENTS = 6  # 21 pixel frames: more than one full piece after the first


def seeded(vae: WanVAE) -> WanVAE:
    """Every parameter random: a projection of zeros or a gain of one would hide a mistake."""
    generator = torch.Generator().manual_seed(5)
    for name, value in vae.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("gamma"):
            value.data = 1 + 0.1 * noise
        elif name.endswith("bias"):
            value.data = 0.1 * noise
        else:
            value.data = noise / value[0].numel() ** 0.5
    return vae.requires_grad_(False)


@pytest.fixture(scope="session")
def vae32() -> WanVAE:
    return seeded(WanVAE(dim=8))


@pytest.fixture(scope="session")
def vae64() -> WanVAE:
    return seeded(WanVAE(dim=8)).double()


@pytest.fixture(scope="session")
def latents() -> torch.Tensor:
    """One stream in float64 that float32 holds exactly; height and width differ."""
    return torch.randn(1, 16, LATENTS, 2, 3, generator=torch.Generator().manual_seed(6)).double()


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """Frames in [-1, 1], float64 that float32 holds exactly."""
    frames = 1 + 4 * (LATENTS - 1)
    return torch.rand(1, 3, frames, 16, 24, generator=torch.Generator().manual_seed(7)).double() * 2 - 1
