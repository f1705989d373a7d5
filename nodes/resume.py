"""Go on with an earlier take: another file begins where its pictures end, without a seam."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io

from ..model_patches.state_file import about_of
from .kept import ENDING, KIND, VERSION
from .start import StartType

NONE_YET = "no snapshot in the output folder"


@dataclass(frozen=True, slots=True)
class Resume:
    """An earlier take, of which only the header is read until its stream is there."""

    path: Path
    block: int  # the next one
    frames: int  # pixel frames of the whole video that are written
    given: int  # latent frames before the first block
    prompt: str | None  # what held when it ended; None: the graph's fixed one

    def refuse_ended(self, pictures: int, fps: float) -> None:
        """Raises ValueError where so many pictures of the whole video are there already."""
        if pictures <= self.frames:
            raise ValueError(
                f"Resume Stream: {self.path.name} already has {self.frames / fps:.1f} s of video and seconds "
                f"is {pictures / fps:.1f}; seconds counts the whole video, so set it higher."
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
        path = _path(snapshot)
        return f"{snapshot} {path.stat().st_mtime_ns if path.is_file() else ''}"

    @classmethod
    def execute(cls, snapshot: str) -> io.NodeOutput:
        """Returns the take, its header read; the stream reads the rest when it is there."""
        path = _path(snapshot)
        if not path.is_file():
            raise ValueError(
                f"Resume Stream: there is no {snapshot} in ComfyUI's output folder; press R and choose a "
                f"snapshot that is there."
            )
        about = about_of(path, KIND, VERSION)
        counts: tuple[Any, ...] = tuple(about[name] for name in ("block", "frames", "given", "prompt"))
        return io.NodeOutput(Resume(path, *counts))


def snapshots() -> list[str]:
    """Snapshots in the output folder, newest first, as paths inside it."""
    folder = Path(folder_paths.get_output_directory())
    if not folder.is_dir():
        return []
    found = sorted(folder.rglob(f"*{ENDING}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.relative_to(folder).as_posix() for path in found]


def _path(snapshot: str) -> Path:
    folder = Path(folder_paths.get_output_directory()).resolve()
    path = (folder / snapshot).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(
            f"Resume Stream: {snapshot!r} lies outside ComfyUI's output folder; choose one of those listed."
        )
    return path
