"""The folder beside a video, `name.take` for `name.mp4`: snapshots, what happened when, and what it is.

Whatever lies in it is written whole or not at all, and in an order that no clock decides: blocks and frames
are in the names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.files import sync_folder
from ..writer.sound import FOLDER

ENDING = FOLDER
KIND, VERSION = "rivulet take", 1
PLANNED, STOPPED, FAILED = "planned", "stopped", "failed"
HOW = (PLANNED, STOPPED, FAILED)
LEFTOVERS = (".part", ".new")  # endings of files that a killed run was writing
_SNAPSHOT = re.compile(r"(\d{1,12})_(\d{1,12})(\.marked)?\.safetensors")
MAX_ABOUT = 1 << 16  # bytes that are read of take.json


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A snapshot, as its name tells of it."""

    path: Path
    block: int  # blocks that were made before it
    frame: int  # pixel frames of the stream that were written before it
    marked: bool  # of a prompt switch, or by the user: it goes last
    bytes: int

    @property
    def order(self) -> tuple[int, int]:
        """Where it lies in the stream; no clock is asked."""
        return self.block, self.frame


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    how: str  # one of HOW
    sentence: str = ""  # of an error


@dataclass(frozen=True, slots=True)
class About:
    """What take.json says."""

    first_frame: int  # pixel frame of the stream that the video begins with
    fps: float
    width: int  # pixels
    height: int
    begun: float  # seconds since 1970, for people: nothing is decided by it
    ended: Ended | None = None  # None: it runs, or it was cut off


@dataclass(frozen=True, slots=True)
class TakeFolder:
    """The paths of one take."""

    video: Path
    path: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.video.with_name(self.video.stem + ENDING))

    @property
    def about(self) -> Path:
        """What the take is."""
        return self.path / "take.json"

    @property
    def timeline(self) -> Path:
        """A line for every prompt and seed that took effect."""
        return self.path / "timeline.jsonl"

    @property
    def watch(self) -> Path:
        """How the picture drifted."""
        return self.path / "watch.jsonl"

    @property
    def picture(self) -> Path:
        """A small newest picture."""
        return self.path / "picture.jpg"

    def snapshot(self, block: int, frame: int, *, marked: bool = False) -> Path:
        """Where a snapshot lies after so many blocks and pixel frames of the stream."""
        return self.path / f"{block:08}_{frame:09}{'.marked' * marked}.safetensors"

    def snapshots(self) -> list[SnapshotFile]:
        """All there are, oldest first, by their names alone; [] where there is no such folder."""
        found = []
        with suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                match = _SNAPSHOT.fullmatch(entry.name)
                if match and entry.is_file():
                    numbers = int(match[1]), int(match[2]), match[3] is not None
                    found.append(SnapshotFile(self.path / entry.name, *numbers, entry.stat().st_size))
        return sorted(found, key=lambda each: (each.order, each.marked))

    def open(self) -> None:
        """Makes the folder; what a killed run was writing goes. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        for path in self.path.iterdir():
            if path.name.endswith(LEFTOVERS):
                path.unlink()

    def remove(self) -> None:
        """Deletes the folder with all that is in it. Raises OSError."""
        shutil.rmtree(self.path)

    def write_about(self, about: About) -> None:
        """Raises OSError."""
        told = {"kind": KIND, "version": VERSION, **asdict(about)}
        write_text(self.about, json.dumps(told, ensure_ascii=False, indent=1) + "\n")

    def read_about(self) -> About:
        """ValueError, with a sentence, where there is none or it cannot be read."""
        try:
            with self.about.open("rb") as file:
                told = json.loads(file.read(MAX_ABOUT))
        except OSError as why:
            raise ValueError(f"{self.about.name} cannot be read ({why.strerror or why})") from why
        except (ValueError, RecursionError) as why:
            raise ValueError(f"{self.about.name} is damaged") from why
        if not isinstance(told, dict) or told.get("kind") != KIND:
            raise ValueError(f"{self.about.name} is none of a take")
        if (version := told.get("version")) != VERSION:
            raise ValueError(
                f"{self.about.name} is of version {str(version)[:20]}, this release reads {VERSION}"
            )
        return _about(self.about.name, told)


def _about(name: str, told: dict[str, Any]) -> About:
    ended: Any = told.get("ended")
    numbers: dict[str, Any] = {
        each: told.get(each) for each in ("first_frame", "width", "height", "fps", "begun")
    }
    least = {"first_frame": 0, "width": 1, "height": 1, "fps": 0.01, "begun": 0}
    counts = all(type(numbers[each]) is int for each in ("first_frame", "width", "height"))
    if not counts or not all(_is_from(numbers[each], low) for each, low in least.items()):
        raise ValueError(f"{name} is damaged: {json.dumps(numbers)[:200]}")
    if ended is None:
        return About(**numbers)
    if not isinstance(ended, dict) or ended.get("how") not in HOW:
        raise ValueError(f"{name} is damaged: ended {json.dumps(ended)[:100]}")
    return About(**numbers, ended=Ended(ended["how"], str(ended.get("sentence", ""))[:500]))


def _is_from(value: Any, least: float) -> bool:
    return type(value) in (int, float) and least <= value <= 1e12  # NaN is in no order


def write_text(path: Path, text: str) -> None:
    """Writes a small file that appears under its name whole and on disk. Raises OSError."""
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        with suppress(OSError):
            new.unlink()
    sync_folder(path.parent)
