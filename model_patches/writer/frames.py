"""Frames for writers: those of a card are copied while it goes on, and waited for where they are read.

F pixel frames, H/W pixels, three colours last.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..transfer import pinned


class HostFrames:
    """uint8 frames [F, H, W, 3] in the host's memory, or on their way there; never changed."""

    __slots__ = ("_copied", "_frames_FHWC")

    def __init__(self, frames_FHWC: Tensor) -> None:
        """frames: uint8 on any device; from a card they come through pinned memory, and nobody waits here."""
        frames_FHWC = frames_FHWC.detach().contiguous()
        self._copied: torch.Event | None = None
        if frames_FHWC.device.type != "cuda":
            self._frames_FHWC = frames_FHWC.cpu()
            return
        self._frames_FHWC = pinned(frames_FHWC.shape, torch.uint8)
        self._frames_FHWC.copy_(frames_FHWC, non_blocking=True)
        self._copied = torch.cuda.current_stream(frames_FHWC.device).record_event()

    def __len__(self) -> int:
        return len(self._frames_FHWC)

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, H, W, 3)."""
        return tuple(self._frames_FHWC.shape)

    def read(self) -> Tensor:
        """The frames [F, H, W, 3] in the host's memory, once the card has made them; from any thread."""
        copied = self._copied
        if copied is not None:
            copied.synchronize()
            self._copied = None
        return self._frames_FHWC
