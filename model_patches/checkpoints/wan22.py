"""Which Wan a checkpoint is, as far as its sizes and its file's name tell, and what a stream cannot run.

Wan 2.2's 14B is two models of Wan 2.1's exact keys and sizes, one for the high half of the noise levels and
one for the low; nothing in the tensors tells them from Wan 2.1 or from each other, only their names do
(github.com/Wan-Video/Wan2.2, "Introduction of Wan2.2").
"""

from __future__ import annotations

import re
from pathlib import Path

WAN22_CHANNELS = 48  # latent channels of Wan 2.2 5B
WAN22_5B = "Wan 2.2 5B (48 latent channels, 16 pixels a latent)"
EXPERT = re.compile(r"(?<![a-z])(high|low)[ _-]?noise(?![a-z])|a14b.*[ _-](high|low)(?![a-z])")


def why_not_channels(taken: int, given: int) -> str | None:
    """What a model is that takes and gives so many latent channels, if no stream can run it, else None."""
    if taken == given == WAN22_CHANNELS:
        return f"{WAN22_5B}, whose VAE cannot be streamed here"
    if taken != given:
        return (
            f"a model that takes {taken} channels and gives {given}, such as image to video: it wants more "
            f"than noise and text"
        )
    return None


def expert_warning(name: str) -> str | None:
    """A sentence if a file's name says that it is one expert of Wan 2.2's 14B, else None."""
    found = EXPERT.search(Path(name).stem.lower())
    if found is None:
        return None
    half = found[1] or found[2]
    return (
        f"{Path(name).name} is called like the {half}-noise expert of Wan 2.2 14B, which was trained for one "
        f"half of the noise levels and on whole clips; a stream runs all its steps on one model, so its "
        f"pictures will be poor. Take causal weights made from Wan 2.1."
    )
