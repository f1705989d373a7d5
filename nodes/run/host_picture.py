"""The picture that ComfyUI's node ARVideoI2V puts into a MODEL, as the beginning of a stream.

C latent channels, T latent frames, H/W of the latent grid.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.pipeline import Prefill
from ..host.caller import HostCaller
from .beginnings import Beginning
from .going_on import Resume

PLACE = ("transformer_options", "ar_config", "initial_latent")  # in the MODEL's options
NODE = "ARVideoI2V"


@dataclass(frozen=True, slots=True)
class FromEncoded(Beginning):
    """Latents of a picture that the host has encoded: remembered and shown as they are."""

    latents_BCTHW: Tensor | None = None  # in the VAE's units
    latents: int = 1

    def read(self, vae: Any, config: StreamConfig, fps: float, pictures: int | None) -> FromEncoded:
        assert self.latents_BCTHW is not None
        shape, wanted = tuple(self.latents_BCTHW.shape), config.geometry.latent_shape(self.latents, 1)
        if shape != wanted:
            stride = config.geometry.space_stride
            raise ValueError(
                f"Stream Video: {NODE} has made the picture {shape[-1] * stride}x{shape[-2] * stride} with "
                f"{shape[1]} channels, and the video is to be {config.geometry.width}x"
                f"{config.geometry.height} with {wanted[1]}; give both nodes the same width and height."
            )
        return self

    def prefill(self, caller: HostCaller, vae: Any) -> Prefill:
        assert self.latents_BCTHW is not None
        return Prefill(caller.from_vae(self.latents_BCTHW.to(caller.device)))


def begun_with(start: Beginning | None, model: Any) -> Beginning | None:
    """How a stream of this MODEL begins: by its `start` input; else with the picture in it, if it has one."""
    latents_BCTHW: Any = model.model_options
    for name in PLACE:
        latents_BCTHW = (latents_BCTHW or {}).get(name)
    if latents_BCTHW is None:
        return start
    if start is None:
        return FromEncoded(latents=latents_BCTHW.shape[2], latents_BCTHW=latents_BCTHW)
    if not isinstance(start, Resume):
        logging.getLogger(__name__).warning(
            "Rivulet: Stream Video begins as its start says; the picture that %s put into the MODEL is not "
            "used. Take one of the two away.", NODE,
        )  # fmt: skip
    return start
