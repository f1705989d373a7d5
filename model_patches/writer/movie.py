"""What an MP4 says of itself, read from its boxes: size, time per frame, whole frames, key frames.

Both kinds are read: a growing file of fragments, and a finished one with its table of samples. Boxes as in
ISO/IEC 14496-12; the names of fields are the standard's.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from .boxes import count_inner, fragment_duration, fragments, inner, inner_boxes, read_init, read_moov

MEDIA = (b"moov", b"trak", b"mdia")
TABLE = (*MEDIA, b"minf", b"stbl")


@dataclass(frozen=True, slots=True)
class Movie:
    """One MP4 file with one video track."""

    width: int  # pixels
    height: int
    fps: Fraction  # 0 where no frame tells how long it is shown
    frames: int  # whole ones in the file
    tabled: int  # frames that it says it has; more than `frames` where the file was cut
    keyframes: Sequence[int]  # ascending numbers of frames from 0
    codec: str  # as the file names it, avc1 for H.264
    fragmented: bool
    tracks: int
    sound: bool  # whether one of them is a sound track
    name: str  # of its video track
    reordered: bool  # frames are not stored in the order in which they are shown

    def keyframe_at(self, frame: int) -> int:
        """Returns the number of the last key frame at or before this frame; 0 without any."""
        at = bisect_right(self.keyframes, frame)
        return self.keyframes[at - 1] if at else 0

    def has_fps(self, fps: Fraction) -> bool:
        """Whether its frames are shown at this rate, as far as whole ticks of its clock can tell."""
        return self.fps > 0 and abs(self.fps / fps - 1) < Fraction(1, 5000)


def read_movie(path: Path | str) -> Movie | None:
    """Returns what the file holds; None where it is no MP4 with a video that can be read."""
    try:
        with Path(path).open("rb") as file:
            moov = read_moov(file)
            entry = inner(moov, *TABLE, b"stsd")[16:]
            if len(entry) < 36:
                return None
            return _fragmented(file, moov, entry) or _tabled(file, moov, entry)
    except (struct.error, IndexError, ValueError, ZeroDivisionError):
        return None


def _fragmented(file: BinaryIO, moov: bytes, entry: bytes) -> Movie | None:
    if not inner(moov, b"moov", b"mvex"):
        return None
    init = read_init(file)
    found = list(fragments(file, init, len(init), 0, check=True))
    count = sum(fragment.frames for fragment in found)
    keys = [fragment.first_frame for fragment in found if fragment.keyframe]
    ticks = fragment_duration(file, init) if found else 0
    return _movie(moov, entry, ticks, frames=count, tabled=count, keyframes=keys, fragmented=True)


def _tabled(file: BinaryIO, moov: bytes, entry: bytes) -> Movie:
    end = file.seek(0, 2)
    sizes, keys = _sizes(moov, end), inner(moov, *TABLE, b"stss")
    whole = _whole_samples(moov, sizes, end)
    numbers = (
        [number - 1 for number in struct.unpack_from(f">{_count(keys)}I", keys, 16)] if keys else range(whole)
    )
    return _movie(
        moov,
        entry,
        _usual_duration(moov),
        frames=whole,
        tabled=len(sizes),
        keyframes=[number for number in numbers if number < whole],
        fragmented=False,
    )


def _movie(
    moov: bytes,
    entry: bytes,
    ticks: int,
    *,
    frames: int,
    tabled: int,
    keyframes: Sequence[int],
    fragmented: bool,
) -> Movie:
    width, height = struct.unpack_from(">HH", entry, 32)
    return Movie(
        width=width,
        height=height,
        fps=Fraction(_timescale(moov), ticks) if ticks else Fraction(0),
        frames=frames,
        tabled=tabled,
        keyframes=keyframes,
        codec=entry[4:8].decode("latin-1"),
        fragmented=fragmented,
        tracks=count_inner(moov, b"trak"),
        sound=any(
            inner(box, b"trak", b"mdia", b"hdlr")[16:20] == b"soun"
            for kind, box in inner_boxes(moov)
            if kind == b"trak"
        ),
        name=inner(moov, *MEDIA, b"hdlr")[32:].rstrip(b"\0").decode("utf-8", "replace"),
        reordered=bool(inner(moov, *TABLE, b"ctts")),
    )


def _timescale(moov: bytes) -> int:
    """Ticks per second of the track."""
    mdhd = inner(moov, *MEDIA, b"mdhd")
    return struct.unpack_from(">I", mdhd, 28 if mdhd[8] else 20)[0]


def _count(box: bytes) -> int:
    """Entries of a table; ValueError where it is shorter than it says."""
    count = struct.unpack_from(">I", box, 12)[0]
    if count > len(box):
        raise ValueError("a table is shorter than it says")
    return count


def _sizes(moov: bytes, end: int) -> Sequence[int]:
    """Bytes of each sample of a file of `end` bytes."""
    stsz = inner(moov, *TABLE, b"stsz")
    same, count = struct.unpack_from(">II", stsz, 12)
    if same:
        return [same] * min(count, end // same)
    if count > len(stsz):
        raise ValueError("a table is shorter than it says")
    return struct.unpack_from(f">{count}I", stsz, 20)


def _usual_duration(moov: bytes) -> int:
    """Ticks that most frames are shown for; joining rounds a few."""
    stts = inner(moov, *TABLE, b"stts")
    entries = struct.iter_unpack(">II", stts[16 : 16 + 8 * _count(stts)])
    return max(entries, default=(0, 0))[1]


def _whole_samples(moov: bytes, sizes: Sequence[int], end: int) -> int:
    """Samples before the first one that reaches beyond byte `end`."""
    stsc, stco, co64 = (inner(moov, *TABLE, kind) for kind in (b"stsc", b"stco", b"co64"))
    offsets = struct.unpack_from(f">{_count(co64)}Q" if co64 else f">{_count(stco)}I", co64 or stco, 16)
    runs = list(struct.iter_unpack(">III", stsc[16 : 16 + 12 * _count(stsc)]))
    sample, run = 0, 0
    for chunk, offset in enumerate(offsets, 1):
        while run + 1 < len(runs) and runs[run + 1][0] <= chunk:
            run += 1
        for size in sizes[sample : sample + runs[run][1]]:
            offset += size
            if offset > end:
                return sample
            sample += 1
    return sample


def frame_count(path: Path | str) -> int:
    """Returns the number of whole frames in an MP4; 0 where it is none."""
    movie = read_movie(path)
    return movie.frames if movie else 0
