"""What a take of `soak --faults` has on disk, read without the engine, and how a loss of power leaves it."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import imageio_ffmpeg

from .soak_faults_takes import Take, lines

DISK_BYTES = 512 << 20
SNAPSHOT = re.compile(r"(\d+)_(\d+)(\.marked)?\.safetensors")  # block and frame


def boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """(kind, end) of the whole boxes at the top of an MP4."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            return
        at += size
        yield kind, at


def frame_ends(path: Path) -> list[int]:
    """Bytes of a part up to the end of each whole frame, none where it does not begin as a part."""
    found, before = [], b""
    for kind, end in boxes(path.read_bytes()):
        if kind == b"mdat" and before == b"moof":
            found.append(end)
        before = kind
    return found


def frames_in(path: Path) -> int:
    """Frames that play in a finished video; 0 where it does not."""
    try:
        return imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    except (RuntimeError, OSError):
        return 0


def picture_sums(path: Path) -> list[str]:
    """Of each picture that plays, its length and a digest of what is shown."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "framemd5", "-"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    rows = [line.split(",") for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return [f"{row[3].strip()} {row[5].strip()}" for row in rows]


@dataclass
class Standing:
    """What a take has on disk."""

    parts: list[Path] = field(default_factory=list)  # in order
    frames: int = 0  # whole ones in its parts, or in its finished video
    snapshots: dict[Path, int] = field(default_factory=dict)  # and the frame that each goes on from

    def committed(self, damaged: Collection[int] = ()) -> int:
        """Frames that a snapshot covers and that are on disk: no fault may cost one of them.

        damaged: numbers of files that are not as they were written.
        """
        whole = {path: at for path, at in self.snapshots.items() if path.stat().st_ino not in damaged}
        good = [at for at in whole.values() if at <= self.frames]
        return max(good, default=0)


def standing(take: Take) -> Standing:
    """What is there now."""
    pattern = re.compile(re.escape(take.video.stem) + r"\.part(\d+)\.mp4")
    numbered = [(int(m[1]), each) for each in take.folder.iterdir() if (m := pattern.fullmatch(each.name))]
    parts = [path for _, path in sorted(numbered)]
    frames = sum(len(frame_ends(path)) for path in parts)
    if take.video.exists():
        frames = max(frames, frames_in(take.video))
    found = {}
    for path in take.folder.rglob("*.safetensors"):
        if named := SNAPSHOT.fullmatch(path.name):
            found[path] = int(named[2])
    return Standing(parts, frames, found)


def on_disk(take: Take) -> tuple[dict[int, int], set[tuple[int, int]]]:
    """(bytes told to be on disk by a file's number; numbers of files and of folders told to be so later)."""
    held: dict[int, int] = {}
    named: set[tuple[int, int]] = set()
    for line in lines(take.fsyncs):
        if line["folder"]:
            named |= {(file, line["file"]) for file in held}
        else:
            held[line["file"]] = line["bytes"]
    return held, named


def surviving(take: Take) -> int:
    """Frames that even a loss of power now may not cost: snapshot and frames were told to be on disk."""
    now, (held, named) = standing(take), on_disk(take)
    frames = 0
    for path in now.parts:
        ends, safe = frame_ends(path), held.get(path.stat().st_ino, 0)
        whole = sum(end <= safe for end in ends)
        frames += whole
        if whole < len(ends):
            break
    if take.video.exists() and not now.parts:
        about = take.video.stat()
        frames = now.frames if held.get(about.st_ino) == about.st_size else 0
    safe = {p: at for p, at in now.snapshots.items() if held.get(p.stat().st_ino) == p.stat().st_size}
    safe = {p: at for p, at in safe.items() if (p.stat().st_ino, p.parent.stat().st_ino) in named}
    return Standing(now.parts, frames, safe).committed()


def lose_power(take: Take, drawn: Random) -> None:
    """Cuts every file, or fills it with zeros, somewhere behind what was told to be on disk of it."""
    held, _ = on_disk(take)
    for path in sorted(each for each in take.folder.rglob("*") if each.is_file()):
        about = path.stat()
        safe = min(held.get(about.st_ino, 0), about.st_size)
        at = drawn.randint(safe, about.st_size)
        os.truncate(path, at)
        if drawn.random() < 0.3:  # the length was on disk, the bytes were not
            os.truncate(path, about.st_size)


def cut(path: Path, drawn: Random) -> None:
    """Cuts a file at a random byte."""
    os.truncate(path, drawn.randrange(path.stat().st_size))


def flip(path: Path, drawn: Random) -> None:
    """Turns one bit of a file."""
    at = drawn.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << drawn.randrange(8)]))


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A folder on a disk of its own that can be filled; None where this user may not mount one."""
    folder.mkdir(parents=True)
    given = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "rivulet-soak", str(folder)]
    try:
        mounted = subprocess.run(given, capture_output=True, check=False).returncode == 0
    except OSError:  # another system
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
