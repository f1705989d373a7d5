"""Noise of a block as a function of (seed, block, step), without state and for any clip length.

B batch, C channels, T latent frames, H/W of the latent grid.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..transfer import to_device


class BlockNoise(Protocol):
    """Source of noise for the sampler. Step 0 is a block's first noise, step i > 0 that before call i."""

    def draw(self, block: int, step: int, start_frame: int, like_BCTHW: Tensor) -> Tensor:
        """Gaussian noise of like's shape, device and dtype; the block's first latent is `start_frame`."""
        ...


@dataclass(frozen=True, slots=True)
class KeyedNoise:
    """Noise by `block_noise`: every block is independent, so a short take is the start of a longer one."""

    seed: int
    _ahead: dict[tuple[int, int, torch.Size], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def draw(self, block: int, step: int, start_frame: int, like_BCTHW: Tensor) -> Tensor:
        drawn = self._ahead.pop((block, step, like_BCTHW.shape), None)
        if drawn is not None:
            return drawn.to(like_BCTHW)
        return block_noise(self.seed, block, step, like_BCTHW.shape, like_BCTHW.device, like_BCTHW.dtype)

    def draw_ahead(self, block: int, step: int, like_BCTHW: Tensor) -> None:
        """Draws that noise now and keeps it, and it alone, until it is asked for: while a card works.

        On the CPU nothing is gained, and nothing is drawn.
        """
        self._ahead.clear()
        if not like_BCTHW.is_cpu:
            drawn = block_noise(self.seed, block, step, like_BCTHW.shape, like_BCTHW.device, like_BCTHW.dtype)
            self._ahead[block, step, like_BCTHW.shape] = drawn


def block_noise(
    seed: int,
    block: int,
    step: int,
    shape: tuple[int, ...] | torch.Size,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Gaussian noise of that shape, the same on every device: float32 on the CPU, then cast to `dtype`.

    Counter-based bits (Philox, Salmon et al. 2011) under a 128-bit key hashed from the three numbers, made
    normal by Box and Muller's rule in float64, so it does not depend on a library's sampling method. A larger
    batch starts with the noise of a smaller one.
    """
    key = blake2b(f"rivulet noise {seed} {block} {step}".encode(), digest_size=16).digest()
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.random.Philox(key=np.frombuffer(key, dtype="<u8")).random_raw((count + 1) // 2 * 2)
    # 53 bits each; the half keeps the radius' uniform away from 0
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[0::2])), 2.0 * np.pi * uniform[1::2]
    normal = np.empty(len(bits), dtype=np.float32)
    normal[0::2], normal[1::2] = radius * np.cos(angle), radius * np.sin(angle)
    return to_device(torch.from_numpy(normal[:count]).reshape(shape), torch.device(device), dtype)
