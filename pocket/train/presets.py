"""Sizes and lengths of the two trainings: `nano` for two CPU cores, `small` for a GPU."""

from dataclasses import dataclass, field

from ...model_patches.arch.wan import WanConfig
from ..text import TEXT_DIM
from .dit import Recipe
from .vae import Phase


@dataclass(frozen=True, slots=True)
class Preset:
    """All that one run of both trainings is given."""

    size: int  # pixels
    vae_dim: int
    vae_phases: tuple[Phase, ...]
    polish_steps: int  # of the decoder alone, when the encoder is settled
    dit: WanConfig
    recipe: Recipe
    timesteps: tuple[float, ...]  # out of 1000, before the shift
    cfg: float = 1.0  # guidance of the exported recipe
    fps: int = 16
    position_preset: str = field(default="pocket")


PRESETS = {
    "nano": Preset(
        size=64,
        vae_dim=16,
        vae_phases=(Phase(1, 16, 900, 2e-3), Phase(5, 8, 220, 1.2e-3), Phase(9, 6, 260, 8e-4)),
        polish_steps=800,
        dit=WanConfig(256, 768, 4, text_dim=TEXT_DIM),
        recipe=Recipe(steps=2000, first_clips=128, more_clips=32, more_every=40),
        cfg=2.0,
        timesteps=(1000, 750, 500, 250),
    ),
    "small": Preset(
        size=128,
        vae_dim=32,
        vae_phases=(Phase(1, 32, 3000, 2e-3), Phase(5, 16, 2000, 1.2e-3), Phase(17, 8, 3000, 8e-4)),
        polish_steps=3000,
        dit=WanConfig(512, 1536, 6, text_dim=TEXT_DIM),
        recipe=Recipe(
            size=128, batch=32, steps=20000, first_clips=2048, more_clips=64, more_every=60, most_clips=16000
        ),
        timesteps=(1000, 750, 500, 250),
    ),
}
