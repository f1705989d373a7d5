"""Index of a growing fragmented MP4: byte ranges of its fragments, and which start with a key frame.

A fragmented file is `ftyp moov (moof mdat)*`: the first two are the init segment, each pair after them a
fragment. A reader that has the init segment can start at any fragment that begins with a key frame (ISO/IEC
14496-12, 8.8).
"""

import struct
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

NOT_A_KEYFRAME = 0x10000  # sample_is_non_sync_sample


@dataclass(frozen=True, slots=True)
class Fragment:
    """A `moof` and its `mdat`: encoded frames in a byte range that can be sent unchanged."""

    offset: int  # bytes from the start of the file
    length: int  # bytes
    first_frame: int  # pixel frame of the stream
    frames: int
    keyframe: bool  # its first frame can be shown without any earlier one


class FragmentIndex:
    """Fragments of one growing file; of an endless one only the newest `max_fragments` stay.

    `count` fragments were seen, numbered from 0; those below `oldest` are evicted. Thread-safe.
    """

    def __init__(self, path: Path | str, *, first_frame: int = 0, max_fragments: int = 4096) -> None:
        self.path = Path(path)
        self.first_frame = first_frame
        self.count = 0
        self.frames = first_frame
        self.init = b""
        self.end = 0  # bytes of the init segment and all complete fragments
        self._fragments: deque[Fragment] = deque(maxlen=max_fragments)
        self._file: BinaryIO | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def oldest(self) -> int:
        """Number of the first fragment in the index."""
        return self.count - len(self._fragments)

    @property
    def newest_keyframe(self) -> int | None:
        """Number of the newest fragment that starts with a key frame, or None."""
        with self._lock:
            indices = (i for i in reversed(range(len(self._fragments))) if self._fragments[i].keyframe)
            index = next(indices, None)
            return None if index is None else self.oldest + index

    @property
    def codec(self) -> str | None:
        """Codec string for a browser's `video/mp4; codecs=...`; None until the init segment is written."""
        at = self.init.find(b"avcC")
        return None if at < 0 else "avc1." + self.init[at + 5 : at + 8].hex()

    def extend(self) -> int:
        """Returns how many fragments were added; reads only what was appended since the last call."""
        with self._lock:
            file = self._open()
            if file is None:
                return 0
            if not self.init:
                self.init = read_init(file)
                self.end = len(self.init)
            added = 0
            for fragment in fragments(file, self.init, self.end, self.frames):
                self._fragments.append(fragment)
                self.count += 1
                self.end = fragment.offset + fragment.length
                self.frames = fragment.first_frame + fragment.frames
                added += 1
            return added

    def fragment(self, number: int) -> Fragment | None:
        """Returns the fragment with this number; None where it was evicted or does not exist yet."""
        with self._lock:
            return self._fragments[number - self.oldest] if self.oldest <= number < self.count else None

    def read(self, number: int, max_bytes: int = 1 << 20) -> tuple[bytes, int]:
        """Returns (bytes, next number) of fragments from `number` on: at least one, at most `max_bytes`."""
        with self._lock:
            file = self._open()
            if file is None or not self.oldest <= number < self.count:
                return b"", number
            first = self._fragments[number - self.oldest]
            last, stop = first, number + 1
            while stop < self.count:
                following = self._fragments[stop - self.oldest]
                if following.offset + following.length - first.offset > max_bytes:
                    break
                last, stop = following, stop + 1
            file.seek(first.offset)
            return file.read(last.offset + last.length - first.offset), stop

    def close(self) -> None:
        """Closes the file, so that it can be deleted; later reads return nothing."""
        with self._lock:
            self._closed = True
            if self._file:
                self._file.close()
                self._file = None

    def _open(self) -> BinaryIO | None:
        if self._file is None and not self._closed and self.path.exists():
            self._file = self.path.open("rb")
        return self._file


def read_init(file: BinaryIO) -> bytes:
    """Returns the init segment of a fragmented file, b"" while it is incomplete."""
    for kind, offset, size in _whole_boxes(file, 0):
        if kind == b"moov":
            file.seek(0)
            return file.read(offset + size)
    return b""


def fragments(file: BinaryIO, init: bytes, offset: int, first_frame: int) -> Iterator[Fragment]:
    """Yields the complete fragments from byte `offset` on."""
    default_flags = _default_sample_flags(init)
    moof = b""
    for kind, at, size in _whole_boxes(file, offset):
        if kind == b"moof":
            file.seek(at)
            moof = file.read(size)
        elif kind == b"mdat" and moof:
            frames, keyframe = _samples(moof, default_flags)
            yield Fragment(offset, at + size - offset, first_frame, frames, keyframe)
            offset, first_frame, moof = at + size, first_frame + frames, b""


def frame_count(path: Path | str) -> int:
    """Returns the number of frames in an MP4, from its sample table or its complete fragments."""
    with Path(path).open("rb") as file:
        moov = read_moov(file)
        stsz = _inner(moov, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
        tabled = struct.unpack_from(">I", stsz, 16)[0] if stsz else 0
        if tabled or not moov:
            return tabled
        init = read_init(file)
        return sum(fragment.frames for fragment in fragments(file, init, len(init), 0))


def read_moov(file: BinaryIO) -> bytes:
    """Returns the movie header of an MP4, b"" without one."""
    for kind, offset, size in _whole_boxes(file, 0):
        if kind == b"moov":
            file.seek(offset)
            return file.read(size)
    return b""


def _whole_boxes(file: BinaryIO, offset: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields (kind, offset, size in bytes) of each box that ends inside the file."""
    end = file.seek(0, 2)
    while offset + 8 <= end:
        file.seek(offset)
        header = file.read(16)
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            size = struct.unpack(">Q", header[8:])[0]
        # a power cut can leave zeros behind the last box
        if size < 8 or offset + size > end or not kind.isalnum():
            return
        yield kind, offset, size
        offset += size


def _inner(box: bytes, *path: bytes) -> bytes:
    """Returns the nested box at `path`, which starts with the kind of `box`; b"" without one."""
    assert not box or box[4:8] == path[0]
    for kind in path[1:]:
        at = 8
        while at + 8 <= len(box):
            size, box_kind = struct.unpack_from(">I4s", box, at)
            if box_kind == kind:
                box = box[at : at + size]
                break
            if size < 8:
                return b""
            at += size
        else:
            return b""
    return box


def _default_sample_flags(init: bytes) -> int:
    at = init.find(b"moov")
    trex = _inner(init[at - 4 :], b"moov", b"mvex", b"trex") if at >= 4 else b""
    return struct.unpack_from(">I", trex, 28)[0] if trex else 0


def _samples(moof: bytes, default_flags: int) -> tuple[int, bool]:
    """Returns (frames, whether the first is a key frame) of a fragment with one track."""
    tfhd = _inner(moof, b"moof", b"traf", b"tfhd")
    has = struct.unpack_from(">I", tfhd, 8)[0] & 0xFFFFFF
    if has & 0x20:
        # before it: track id, then base offset (8), description, duration, size (4 each), where present
        at = 16 + 8 * bool(has & 0x1) + 4 * sum(bool(has & bit) for bit in (0x2, 0x8, 0x10))
        default_flags = struct.unpack_from(">I", tfhd, at)[0]
    trun = _inner(moof, b"moof", b"traf", b"trun")
    has, count = struct.unpack_from(">II", trun, 8)
    at = 16 + 4 * bool(has & 0x1)
    if has & 0x4:
        default_flags = struct.unpack_from(">I", trun, at)[0]
    elif has & 0x400:
        at += 4 * sum(bool(has & bit) for bit in (0x100, 0x200))
        default_flags = struct.unpack_from(">I", trun, at)[0]
    return count, not default_flags & NOT_A_KEYFRAME
