"""The noise of ComfyUI's own sampler of streams, to compare latents with it to the last bit."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class HostNoise:
    """The noise of ComfyUI's `ar_video` sampler, to compare with it to the last bit.

    clip_BCTHW: noise of the whole clip; every block begins with its part of it. Before call i + 1 of block b
    noise is renewed by torch's generator at seed + 1000*b + i, on the latents' device, in their memory order.
    """

    seed: int
    clip_BCTHW: Tensor

    def draw(self, block: int, step: int, start_frame: int, like_BCTHW: Tensor) -> Tensor:
        if step:
            generator = torch.Generator(like_BCTHW.device).manual_seed(self.seed + 1000 * block + step - 1)
            return torch.empty_like(like_BCTHW).normal_(generator=generator)
        end = start_frame + like_BCTHW.shape[2]
        if end > self.clip_BCTHW.shape[2]:
            raise ValueError(
                f"HostNoise: the block needs {end} latent frames of noise, the clip has "
                f"{self.clip_BCTHW.shape[2]}; give noise for the whole clip, or use KeyedNoise."
            )
        return self.clip_BCTHW[:, :, start_frame:end].to(like_BCTHW)
