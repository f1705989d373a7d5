"""What every shot keeps where Prompts over Time has a reference: a film of a scene's first latents, in which
the picture stands still.

C latent channels, T latent frames, H/W of the picture or of the latent grid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...model_patches.attention.positions import why_no_shot
from ...model_patches.stream.config import StreamConfig
from ..host.caller import HostCaller
from ..host.encoder import HostEncoder
from .beginnings import FromPicture


def reference_latents(caller: HostCaller, vae: Any, image_BHWC: Tensor, config: StreamConfig) -> Tensor:
    """Latents [1, C, T, H, W] in the model's units, as many as a shot keeps.

    image: one picture [1, H, W, 3] in [0, 1] of any size. ValueError for positions that have no place for
    them, or a VAE that does not encode a film.
    """
    if refusal := why_no_shot(config.positions, config.joint_frames):
        raise ValueError(refusal)
    picture_1HWC = FromPicture(image_BHWC=image_BHWC).resize(config.geometry)
    count = config.geometry.pixel_frames(config.positions.sink_frames)
    latents_BCTHW, _ = HostEncoder(vae)(picture_1HWC.repeat(count, 1, 1, 1), last=True)
    return caller.from_vae(latents_BCTHW)
