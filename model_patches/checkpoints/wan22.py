"""All that is known here of Wan 2.2, none of whose models a stream runs: the sign of each, and its name.

Its 5B has latents and a VAE of its own. Its 14B is two models of Wan 2.1's exact keys and sizes, one for the
high half of the noise levels and one for the low; nothing in the tensors tells them from Wan 2.1 or from each
other, only their names do (github.com/Wan-Video/Wan2.2, "Introduction of Wan2.2").
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from ..geometry import LATENT_CHANNELS
from .files import Shapes

CHANNELS_5B = 48  # of its latents
NAME_5B = "Wan 2.2 5B"
MODEL_5B = f"{NAME_5B} ({CHANNELS_5B} latent channels, 16 pixels a latent)"
VAE_5B = f"the VAE of {MODEL_5B}"
VAE_KEY_5B = "decoder.upsamples.0.upsamples.0.residual.2.weight"  # that no other VAE of Wan has
NAME_14B = "Wan 2.2 14B"
EXPERT = re.compile(r"(?<![a-z])(high|low)[ _.-]?noise(?![a-z])|a14b.*[ _-](high|low)(?![a-z])")


def is_5b(shapes: Shapes) -> bool:
    """Whether a model's keys and shapes are the 5B's, or of a model made from it, packed weights or not."""
    taken, given = (shapes.get(f"{name}.weight", ()) for name in ("patch_embedding", "head.head"))
    if len(taken) != 5 or taken[1] != CHANNELS_5B:
        return False
    return given[:1] != (math.prod(taken[2:]) * LATENT_CHANNELS,)  # that a control model of Wan 2.1 has


def expert_warning(name: str) -> str | None:
    """A sentence if a file's name says that it is one expert of the 14B, else None."""
    match = EXPERT.search(Path(name).stem.lower())
    if match is None:
        return None
    half = match[1] or match[2]
    return (
        f"{Path(name).name} is called like the {half}-noise expert of {NAME_14B}, which was trained for one "
        f"half of the noise levels and on whole clips; a stream runs all its steps on one model, so its "
        f"pictures will be poor. Take causal weights made from Wan 2.1."
    )
