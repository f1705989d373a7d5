"""What a run gives beside its video: a snapshot to resume from, and the last picture."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ...model_patches.stream.caller import Caller
from ...model_patches.stream.recovery import save_in_any_case
from ...model_patches.stream.state import StreamState
from ...model_patches.writer.frames import HostFrames

log = logging.getLogger(__name__)

ENDING = ".snapshot.safetensors"
EARLY, ALWAYS, NEVER = "when it ends early", "always", "never"
WHEN = {
    EARLY: "if it is stopped, interrupted or fails",
    ALWAYS: "also at its planned end",
    NEVER: "not at all",
}


class Snapshots:
    """Keeps a run's newest state, and writes it beside the video when the run ends: `with Snapshots(...):`.

    What fails here is logged: the video is whole without it.
    """

    def __init__(self, caller: Caller, video: Path, when: str) -> None:
        """when: one of WHEN."""
        self.path = video.with_name(video.stem + ENDING)
        self.stopped = False  # a viewer ended the run
        self._caller, self._when = caller, when
        self._state: StreamState | None = None

    def keep(self, state: StreamState) -> None:
        """Remembers the newest state, to be saved at the end."""
        if state.block:
            self._state = state

    def __enter__(self) -> Snapshots:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        early = self.stopped or kind is not None
        if self._state is None or not (self._when == ALWAYS or (self._when == EARLY and early)):
            return
        try:
            save_in_any_case(self._caller, self._state, self.path)
            log.info("Stream Video: saved %s; Resume Stream continues from it.", self.path.name)
        except (OSError, RuntimeError) as why:
            log.warning("Stream Video: no snapshot was saved, so this take cannot be resumed: %s", why)


class LastPicture:
    """A writer that keeps nothing but the newest picture."""

    def __init__(self) -> None:
        self.frames_written = 0
        self._newest: HostFrames | None = None

    def __enter__(self) -> LastPicture:
        return self

    def write(self, frames: HostFrames) -> None:
        self.frames_written += len(frames)
        self._newest = frames

    @property
    def image_BHWC(self) -> Tensor:
        """The picture [1, H, W, 3] in [0, 1]; empty before the first."""
        return torch.empty(0) if self._newest is None else self._newest.read()[-1:].float() / 255

    def seal(self) -> None:
        """Does nothing: there is no file to close."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does nothing: there is no file to close."""
