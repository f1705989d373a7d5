"""Two conversions: `pocket` for two CPU cores, `wan` for a 1.3B checkpoint on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from ...model_patches.arch.mla import PROJECTIONS, MlaSizes
from ...model_patches.arch.rotary import RopeLayout
from .distil import Conversion


@dataclass(frozen=True, slots=True)
class Preset:
    """All that defines a conversion beside files."""

    sizes: MlaSizes
    recipe: Conversion
    batch: int  # clips of a rollout
    positions: str  # position preset
    size: tuple[int, int]  # pixels, width and height
    block_frames: int = 3


PRESETS = {
    # 36 numbers where the dense cache keeps 512: 14.2 times fewer
    "pocket": Preset(
        MlaSizes(28, 128, RopeLayout.truncated(128, 8), frozenset(PROJECTIONS)),
        Conversion(
            local_steps=400,
            flow_steps=12000,
            sampled_steps=6000,
            minutes=120.0,
            whole=True,
            student_share=0.5,
        ),
        batch=8,
        positions="pocket",
        size=(64, 64),
    ),
    # the published sizes; biases cost no byte of cache
    "wan": Preset(
        MlaSizes(biases=frozenset(PROJECTIONS)),
        Conversion(
            moment_rollouts=8, local_steps=2000, flow_steps=20000, local_rate=2e-4, flow_rate=2e-5, half=True
        ),
        batch=1,
        positions="videomla_7",
        size=(832, 480),
    ),
}
