"""Sizes and lengths of the two trainings: `nano` for two CPU cores, `small` for a GPU."""

from dataclasses import dataclass, field

from ...model_patches.arch.wan import WanConfig
from ..text import TEXT_DIM
from .dit import PocketTraining
from .vae_batches import Phase


@dataclass(frozen=True, slots=True)
class Preset:
    """All that one run of both trainings is given."""

    size: int  # pixels
    vae_dim: int
    vae_phases: tuple[Phase, ...]  # on whole short clips
    vae_probing: Phase  # on pictures, of encoder and probe alone
    vae_streaming: Phase  # piece by piece along longer ones
    latent_separation: Phase  # of the trained encoder alone, which keeps its latents where it can
    decoder_pictures: Phase  # of a fresh decoder, when the encoder is final
    decoder_streaming: Phase
    decoder_light: Phase  # of the stages that draw the world in soft light, see `light`
    dit: WanConfig
    recipe: PocketTraining
    timesteps: tuple[float, ...]  # out of 1000, before the shift
    first_timesteps: tuple[float, ...] = ()  # of a scene's first block, see `models.PocketRecipe`
    fresh_noise: bool = False  # the models are not distilled: they step along the flow
    cfg: float = 1.0  # guidance of the exported recipe
    fps: int = 16
    position_preset: str = field(default="pocket")


PRESETS = {
    "nano": Preset(
        size=64,
        vae_dim=16,
        vae_probing=Phase(1, 64, 400, 2e-3),
        vae_phases=(Phase(1, 16, 900, 2e-3), Phase(5, 8, 220, 1.2e-3), Phase(9, 6, 260, 8e-4)),
        vae_streaming=Phase(17, 6, 1200, 8e-4),
        latent_separation=Phase(17, 8, 1700, 6e-4),
        decoder_pictures=Phase(1, 32, 1300, 2e-3),
        decoder_streaming=Phase(33, 6, 3400, 8e-4),
        decoder_light=Phase(33, 4, 6000, 2e-3),
        dit=WanConfig(256, 768, 4, text_dim=TEXT_DIM),
        recipe=PocketTraining(
            steps=6000,
            predicted_context_from=0.92,
            long_from=0.97,
            first_clips=96,
            more_clips=16,
            more_every=50,
        ),
        cfg=2.0,
        timesteps=(1000, 600, 300, 80),  # a last call at little noise: corners come out sharp
        # what goes where is settled at much noise, in a block that has no past to tell it
        first_timesteps=(1000, 875, 750, 625, 500, 375, 250, 80),
    ),
    "small": Preset(
        size=128,
        vae_dim=32,
        vae_probing=Phase(1, 128, 1000, 2e-3),
        vae_phases=(Phase(1, 32, 3000, 2e-3), Phase(5, 16, 2000, 1.2e-3), Phase(17, 8, 3000, 8e-4)),
        vae_streaming=Phase(65, 16, 4000, 6e-4),
        latent_separation=Phase(33, 16, 3000, 5e-4),
        decoder_pictures=Phase(1, 64, 4000, 2e-3),
        decoder_streaming=Phase(97, 8, 4000, 6e-4),
        decoder_light=Phase(97, 8, 6000, 1e-3),
        dit=WanConfig(512, 1536, 6, text_dim=TEXT_DIM),
        recipe=PocketTraining(
            size=128, batch=32, steps=20000, first_clips=2048, more_clips=64, more_every=60, most_clips=16000
        ),
        timesteps=(1000, 750, 500, 250),
    ),
}
