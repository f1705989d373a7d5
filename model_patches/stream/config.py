"""The contract of a stream: its sizes, positions, noise levels and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from ..attention.positions import PositionPreset, cached_frames, joint
from ..attention.positions import preset as preset_of
from ..geometry import Geometry
from ..reason import dtype_name
from ..sampler.rolling import BLOCK, ROLLING, SAMPLERS
from ..sampler.schedule import sigmas
from ..vae.past import KEPT_LATENTS

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """The contract of one stream: whatever of it changes, the same seed gives another video."""

    geometry: Geometry
    preset: PositionPreset | str = "pocket"  # or its name
    block_frames: int = 3  # latent frames denoised together, as in the model's training
    sigmas: tuple[float, ...] = field(default_factory=sigmas)  # falling noise levels, one per call
    cfg: float = 1.0  # guidance; other than 1 needs a negative text and a second set of keys and values
    seed: int = 0
    dtype: torch.dtype = torch.float32  # what the model computes in; latents are float32 or wider
    fresh_noise: bool = True  # between calls, for distilled models; False steps along the flow
    first_sigmas: tuple[float, ...] = ()  # of a block that nothing was before; (): sigmas, as for all others
    sampler: str = BLOCK  # or ROLLING: as many blocks together as there are sigmas

    def __post_init__(self) -> None:
        if isinstance(self.preset, str):
            object.__setattr__(self, "preset", preset_of(self.preset))
        for name, least in (("sigmas", 1), ("first_sigmas", 0)):
            object.__setattr__(self, name, _falling(name, getattr(self, name), least))
        if not isinstance(self.block_frames, int) or self.block_frames < 1:
            raise ValueError(
                f"StreamConfig: block_frames must be at least 1 latent frame, got {self.block_frames!r}; "
                f"published models use 1 or 3."
            )
        if not math.isfinite(self.cfg) or self.cfg < 0:
            raise ValueError(f"StreamConfig: cfg must be 0 or more, got {self.cfg}; 1 is without guidance.")
        if self.dtype not in DTYPES:
            raise ValueError(
                f"StreamConfig: cannot compute in {dtype_name(self.dtype)}; take one of "
                f"{', '.join(map(dtype_name, DTYPES))}."
            )
        cached_frames(self.positions, 0, self.block_frames)  # refuses blocks longer than the window
        self._check_sampler()

    def _check_sampler(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(
                f"StreamConfig: there is no sampler {self.sampler!r}; there are {', '.join(SAMPLERS)}."
            )
        if not self.rolling:
            if self.positions.sink_within:
                raise ValueError(
                    f"StreamConfig: preset {self.positions.name} is for checkpoints that denoise several "
                    f"blocks together (sampler {ROLLING}), and this stream makes one after the other; take "
                    f"another preset."
                )
            return
        if self.first_sigmas or not self.fresh_noise:
            raise ValueError(
                f"StreamConfig: the sampler {ROLLING} takes every block through the same noise levels, with "
                f"fresh noise before each; give no first_sigmas, and fresh_noise."
            )
        joint(self.positions, self.joint_frames)  # refuses more frames than ids

    @property
    def rolling(self) -> bool:
        """Whether several blocks are denoised together."""
        return self.sampler == ROLLING

    @property
    def joint_frames(self) -> int:
        """Latent frames that are denoised together: a block's, or those of one block a noise level."""
        return self.block_frames * (len(self.sigmas) if self.rolling else 1)

    @property
    def frames_under_way(self) -> int:
        """Latent frames of the blocks that are under way between two blocks."""
        return self.joint_frames - self.block_frames

    @property
    def positions(self) -> PositionPreset:
        """The preset, looked up."""
        assert isinstance(self.preset, PositionPreset)
        return self.preset

    @property
    def guided(self) -> bool:
        """Whether every call is made for a negative text too."""
        return self.cfg != 1

    def levels(self, start_frame: int, has_latents: bool = False) -> tuple[float, ...]:
        """Noise levels of the block at this latent frame of its scene, one per call.

        Nothing is before a scene's first block: it makes up the picture, where later ones go on with it.
        has_latents: it begins with latents that are there, which are a picture already.
        """
        return self.sigmas if start_frame or has_latents else self.first_sigmas or self.sigmas

    @property
    def tail_frames(self) -> int:
        """Newest latent frames that may be run again under another text: as many as the window holds."""
        return self.positions.window_frames or self.positions.trained_frames

    @property
    def kept_frames(self) -> int:
        """Newest latent frames of a scene that a stream keeps beside its cache."""
        return max(self.tail_frames, KEPT_LATENTS)

    @property
    def latent_dtype(self) -> torch.dtype:
        """The dtype latents and the sampler's arithmetic are in."""
        return torch.promote_types(self.dtype, torch.float32)


def _falling(name: str, levels: Sequence[float], least: int) -> tuple[float, ...]:
    falling = tuple(float(level) for level in levels)
    falls = all(above > below for above, below in pairwise((math.nextafter(1, 2), *falling, 0.0)))
    if len(falling) < least or not falls:
        raise ValueError(
            f"StreamConfig: {name} must fall from at most 1 and stay above 0, got {falling}; "
            f"schedule.sigmas() gives the published four."
        )
    return falling
