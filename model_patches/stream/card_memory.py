"""The memory of a card: whether an error says that it is full, what is in use, and giving back what is not.

Nothing here knows a kind of card but by its name: torch has a module of that name with these functions.
"""

from __future__ import annotations

import traceback
from typing import Any

import torch

from ...kernels import out_of_memory as kernels


class CardFullError(RuntimeError):
    """The card is full and no measure helped; what was made until then is whole."""


def is_out_of_memory(error: BaseException) -> bool:
    """`kernels.out_of_memory`'s answer; a CardFullError has it behind it."""
    return not isinstance(error, CardFullError) and kernels.is_out_of_memory(error)


def forget(error: BaseException | None) -> None:
    """Lets go of what the frames of an error hold, and of the errors that it came from.

    The frames of a block that failed hold its tensors, and so does the traceback of whoever keeps the error.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        before = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = before


def give_back(device: torch.device) -> None:
    """Gives memory that torch holds and nobody uses back to the card."""
    if hasattr(module := _module(device), "empty_cache"):
        module.empty_cache()


def usage(device: torch.device) -> str:
    """What torch had in use at most, of how much, as words; empty where the card does not say."""
    module = _module(device)
    if not hasattr(module, "max_memory_allocated") or not hasattr(module, "mem_get_info"):
        return ""
    free, total = module.mem_get_info(device)
    most = module.max_memory_allocated(device)
    return f"at most {_gb(most)} were in use, {_gb(free)} of {_gb(total)} are free now"


def _module(device: torch.device) -> Any:
    return getattr(torch, device.type, None)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
