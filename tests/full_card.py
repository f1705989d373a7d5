"""A card that is full at chosen operations: what torch raises there, without a card."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SAID = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8.00 GiB of which "
    "4.00 MiB is free. Process 1 has 7.99 GiB memory in use."
)


class FullCard(TorchDispatchMode):
    """While it is entered, torch's operations are counted, and those for which `is_full` raise.

    An operation that raises has done nothing, as on a card, where the memory is asked for first.
    """

    def __init__(self, is_full: Callable[[int], bool]) -> None:
        """is_full: asked with the number of each operation."""
        super().__init__()
        self.is_full, self.operations, self.raised = is_full, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        number, self.operations = self.operations, self.operations + 1
        if self.is_full(number):
            self.raised += 1
            raise torch.OutOfMemoryError(SAID)
        return func(*args, **(kwargs or {}))
