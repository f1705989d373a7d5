"""Go on with an earlier take: another file begins where its pictures end, without a seam."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import io

from ..model_patches.stream.state_file import about_of
from .run.kept import KIND, VERSION
from .run.snapshot_files import changed, snapshots, there
from .start_from import StartType

log = logging.getLogger(__name__)

WHO = "Resume Stream"
NONE_YET = "no snapshot in the output folder"


@dataclass(frozen=True, slots=True)
class Resume:
    """An earlier take, of which only the header is read until its stream is there."""

    path: Path
    block: int  # the next one
    frames: int  # pixel frames of the whole video that are written
    given: int  # latent frames before the first block
    prompt: str | None  # what held when it ended; None: the graph's fixed one
    hidden: int = 0  # pixel frames of the given latents that are not in the video
    followed: bool = False  # it followed a video, which its snapshot does not hold

    def check(self, pictures: int, fps: float) -> None:
        """Raises ValueError where so many pictures of the whole video are there already.

        Logs where the stream goes on otherwise than it was made.
        """
        if pictures <= self.frames:
            raise ValueError(
                f"Resume Stream: {self.path.name} already has {self.frames / fps:.1f} s of video and seconds "
                f"is {pictures / fps:.1f}; seconds counts the whole video, so set it higher."
            )
        if self.followed:
            log.warning(
                "Resume Stream: the take in %s followed a video, which its snapshot does not hold: from here "
                "on the prompt alone says what comes. To follow on, take Start From with mode follow "
                "instead, and the video without its first %.1f s.",
                self.path.name,
                self.frames / fps,
            )


class RivuletResume(io.ComfyNode):
    """An earlier take to go on with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletResume",
            display_name="Resume Stream",
            category="rivulet",
            description="Goes on with a stream that was stopped or interrupted: its memory comes back "
            "from its snapshot, and another file begins where its pictures end.",
            search_aliases=["continue", "extend", "go on", "snapshot", "unfinished"],
            inputs=[
                io.Combo.Input(
                    "snapshot",
                    options=snapshots() or [NONE_YET],
                    tooltip="A file that Stream Video left beside its video, newest first. Press R after a "
                    "run to see new ones.",
                )
            ],
            outputs=[StartType.Output(display_name="start", tooltip="For Stream Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, snapshot: str) -> str:
        """Changes when the file does."""
        return changed(WHO, snapshot)

    @classmethod
    def execute(cls, snapshot: str) -> io.NodeOutput:
        """Returns the take, its header read; the stream reads the rest when it is there."""
        path = there(WHO, snapshot)
        about = about_of(path, KIND, VERSION)
        counts: tuple[Any, ...] = tuple(about[name] for name in ("block", "frames", "given", "prompt"))
        later = about.get("hidden", 0), about.get("followed", False)
        return io.NodeOutput(Resume(path, *counts, *later))
