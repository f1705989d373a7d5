"""How fast objects move, from where they are found in every picture.

F frames, N objects. Speeds are sides of the picture per picture, taken over a quarter of a second: over one
picture the detector's own jitter looks like motion, over a whole second a bounce takes most of it away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import world

SPANS_PER_SECOND = 4
STILL = world.SPEED[0] / 2  # an object that was slower on average stands still


def speeds(place_FN2: Tensor, fps: int) -> Tensor:
    """Speed over every quarter of a second [F - fps / 4, N]; nan where an object was not found at an end."""
    span = fps // SPANS_PER_SECOND
    return (place_FN2[span:] - place_FN2[:-span]).norm(dim=-1) / span


def around(speed_EN: Tensor, fps: int) -> Tensor:
    """Per frame [F, N]: the faster of the quarter seconds that end and begin with it.

    A bounce in the midst of one of the two does not make an object stand still. nan where neither is known.
    """
    unknown = torch.full((fps // SPANS_PER_SECOND, speed_EN.shape[1]), torch.nan)
    return torch.fmax(torch.cat([unknown, speed_EN]), torch.cat([speed_EN, unknown]))
