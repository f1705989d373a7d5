"""The takes of `soak --faults`: what they are made of, and what is noted of them beside their video.

A take is begun and gone on with by a maker, each go in a process of its own that a fault may end. In a folder
beside it lie `pictures.log`, with a digest of every picture before it was encoded, and `goes.log`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import cycle, product
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ...model_patches.stream.timeline import MODES
from ...model_patches.takes.folder import TakeFolder
from ...model_patches.takes.point import find_point
from ...model_patches.writer.frames import HostFrames
from ...model_patches.writer.joining import finish
from ...model_patches.writer.parts import frames_of
from ...model_patches.writer.video import Mp4Writer

WIDTH, HEIGHT, FPS = 32, 32, 16
BLOCKS = 8  # the window is full after four; frames leave it, and are remembered, from then on
BLOCK_FRAMES = 3
TIME_STRIDE = 4  # pictures of a latent, but of a scene's first
EVERY_SECONDS = 1.0  # of video between two snapshots
CACHES, MEMORIES = ("dense", "int8", "latent", "mla"), ("off", "ema", "learned")
PROMPTS = (
    "a red circle and a blue square on a green ground",
    "a yellow triangle on a blue ground",
    "a magenta square and a cyan circle on a red ground",
)


@dataclass(frozen=True)
class Setup:
    """How a take is made."""

    cache: str
    memory: str
    exact: bool  # the sink, in a cache that rounds: some memories need it
    switches: Mapping[int, str]  # modes, by the block that a prompt begins with
    guided: bool  # by a negative text too, which takes twice as long
    seed: int
    blocks: int = BLOCKS

    @property
    def name(self) -> str:
        """For rows and folders."""
        return f"{self.cache}-{self.memory}"

    @property
    def pictures(self) -> int:
        """Of the whole take: a scene's first latent is one picture."""
        scenes = 1 + sum(mode == "cut" for block, mode in self.switches.items() if block < self.blocks)
        return TIME_STRIDE * self.blocks * BLOCK_FRAMES - (TIME_STRIDE - 1) * scenes


def setups() -> list[Setup]:
    """Every cache with every memory, the ways to another prompt in turn."""
    modes, made = cycle(MODES), []
    for number, (cache, memory) in enumerate(product(CACHES, MEMORIES)):
        exact = memory == "ema" and cache in ("int8", "latent")
        switches = {2: next(modes), 5: next(modes)}
        made.append(Setup(cache, memory, exact, switches, number % 4 == 0, 11 + number))
        next(modes)  # so that a memory meets all of them
    return made


@dataclass(frozen=True)
class Take:
    """One take on disk."""

    setup: Setup
    folder: Path  # of its video
    beside: Path  # what the soak notes of it
    file: str  # name of its video

    @property
    def video(self) -> Path:
        """Where its video will be."""
        return self.folder / self.file

    @property
    def pictures(self) -> Path:
        """A line for each picture that was made."""
        return self.beside / "pictures.log"

    @property
    def goes(self) -> Path:
        """A line for each go that came to a picture."""
        return self.beside / "goes.log"

    @property
    def fsyncs(self) -> Path:
        """A line for each file that was told to be on disk."""
        return self.beside / "fsyncs.log"

    def clear(self) -> None:
        """Deletes what a go left that came to no snapshot; the take begins anew."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


class Maker(Protocol):
    """How a take is made, by the engine alone or in ComfyUI."""

    name: str
    file: str  # name of a take's video
    kinds: Any  # of faults, see `soak_faults_kinds`
    is_exact: bool  # a file of several goes is the file of one, picture by picture

    def ready(self, setup: Setup) -> None:
        """Reads what the setup needs, in the process whose children make takes."""
        ...

    def begin(self, take: Take) -> None:
        """Makes the take from its first picture up to its end."""
        ...

    def go_on(self, take: Take) -> None:
        """Makes what is missing of it."""
        ...


def make(maker: Maker, take: Take) -> None:
    """Begins a take or goes on with it, up to its end."""
    due(maker, take)()


def due(maker: Maker, take: Take) -> Callable[[], object]:
    """What somebody does next who finds a take so."""
    try:
        find_point(TakeFolder(take.video))
    except ValueError as why:
        print(why, flush=True)
        take.clear()
        return partial(maker.begin, take)
    if frames_of(take.video) < take.setup.pictures:
        return partial(maker.go_on, take)
    return partial(finish, take.video) if not take.video.exists() else lambda: None


@contextmanager
def noting(take: Take) -> Iterator[None]:
    """A digest of every picture that a video's writer is given lies in a file before it is encoded."""
    write, begun = Mp4Writer.write, False

    def noted(writer: Mp4Writer, frames: HostFrames) -> None:
        nonlocal begun
        if not begun:
            append(take.goes, {"first": writer.frames_written})
        begun = True
        note(take, writer.frames_written, frames.read())
        write(writer, frames)

    with patch.object(Mp4Writer, "write", noted):
        yield


def note(take: Take, first: int, pixels_FHWC: Tensor) -> None:
    """A line for each picture, the first of which has this number."""
    with _disable_current_modes():
        digests = [digest(each) for each in pixels_FHWC.unbind(0)]
    append(take.pictures, *({"frame": first + at, "is": each} for at, each in enumerate(digests)))


def digest(pixels_HWC: Tensor) -> str:
    """Of one picture."""
    return blake2b(pixels_HWC.contiguous().numpy().tobytes(), digest_size=12).hexdigest()


def append(path: Path, *rows: Mapping[str, Any]) -> None:
    """Adds lines to a file in one piece, which a kill cannot part."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def lines(path: Path) -> list[dict[str, Any]]:
    """What `append` wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def others(made: list[dict[str, Any]], expected: list[str]) -> list[int]:
    """Frames whose picture is not the expected one, of lines of a `pictures.log`."""
    known = dict(enumerate(expected))
    return [line["frame"] for line in made if line["is"] != known.get(line["frame"])]
