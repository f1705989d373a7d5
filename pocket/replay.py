"""Shows a stream blocks that it did not make: they become its past as its own would."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..model_patches.stream.caller import Caller
from ..model_patches.stream.state import StreamState
from ..model_patches.stream.step import extend


def replay(caller: Caller, state: StreamState, clean_BCTHW: Tensor) -> StreamState:
    """The state after a block of given clean latents, counted as one of its own."""
    return replace(extend(caller, state, clean_BCTHW), block=state.block + 1)
