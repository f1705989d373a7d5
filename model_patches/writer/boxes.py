"""Boxes of an MP4, and the fragments of one that grows.

A fragmented file is `ftyp moov (moof mdat)*`: the first two are the init segment, each pair after them a
fragment (ISO/IEC 14496-12, 8.8). Whatever follows the last whole box, or cannot be read, ends the file.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

NOT_A_KEYFRAME = 0x10000  # sample_is_non_sync_sample
MAX_MOOF = 1 << 20  # bytes; with a frame in each it takes about a hundred
LEAST_FRAME = 5  # bytes: a unit of H.264 behind its length


@dataclass(frozen=True, slots=True)
class Fragment:
    """A `moof` and its `mdat`: encoded frames in a byte range that can be sent unchanged."""

    offset: int  # bytes from the start of the file
    length: int  # bytes
    first_frame: int  # pixel frame of the stream
    frames: int
    keyframe: bool  # its first frame can be shown without any earlier one


def read_init(file: BinaryIO) -> bytes:
    """Returns the init segment of a fragmented file, b"" while it is incomplete."""
    for kind, offset, size in whole_boxes(file, 0):
        if kind == b"moov":
            file.seek(0)
            return file.read(offset + size)
    return b""


def fragments(
    file: BinaryIO, init: bytes, offset: int, first_frame: int, *, check: bool = False
) -> Iterator[Fragment]:
    """Yields the complete fragments from byte `offset` on, up to the first that cannot be read.

    check: also that the coded pictures are where the fragment says, for files that a power cut may have
    filled up with zeros.
    """
    default_flags = _default_sample_flags(init)
    moof = b""
    for kind, at, size in whole_boxes(file, offset):
        if kind == b"moof":
            file.seek(at)
            moof = file.read(min(size, MAX_MOOF))
        elif kind == b"mdat" and moof:
            try:
                frames, keyframe = _samples(moof, default_flags)
            except struct.error:
                return
            if not 0 < frames * LEAST_FRAME <= size - 8:
                return
            if check and not _is_coded(file, at + 8, at + size):
                return
            yield Fragment(offset, at + size - offset, first_frame, frames, keyframe)
            offset, first_frame, moof = at + size, first_frame + frames, b""


def _is_coded(file: BinaryIO, at: int, end: int) -> bool:
    """Whether these bytes are units of H.264, each behind its length, which add up."""
    while at + LEAST_FRAME <= end:
        file.seek(at)
        length, kind = struct.unpack(">IB", file.read(5))
        if length == 0 or not kind & 0x1F:
            return False
        at += 4 + length
    return at == end


def fragment_duration(file: BinaryIO, init: bytes) -> int:
    """Returns how long the first fragment's first frame is shown, in ticks of the track; 0 if untold."""
    for kind, at, size in whole_boxes(file, len(init)):
        if kind != b"moof":
            continue
        file.seek(at)
        moof = file.read(min(size, MAX_MOOF))
        tfhd, trun = (inner(moof, b"moof", b"traf", name) for name in (b"tfhd", b"trun"))
        has = struct.unpack_from(">I", trun, 8)[0]
        if has & 0x100:
            return struct.unpack_from(">I", trun, 16 + 4 * bool(has & 0x1) + 4 * bool(has & 0x4))[0]
        has = struct.unpack_from(">I", tfhd, 8)[0]
        if has & 0x8:
            return struct.unpack_from(">I", tfhd, 16 + 8 * bool(has & 0x1) + 4 * bool(has & 0x2))[0]
        break
    trex = inner(init[max(0, init.find(b"moov") - 4) :], b"moov", b"mvex", b"trex")
    return struct.unpack_from(">I", trex, 20)[0] if trex else 0


def read_moov(file: BinaryIO) -> bytes:
    """Returns the movie header of an MP4, b"" without one."""
    for kind, offset, size in whole_boxes(file, 0):
        if kind == b"moov":
            file.seek(offset)
            return file.read(size)
    return b""


def whole_boxes(file: BinaryIO, offset: int) -> Iterator[tuple[bytes, int, int]]:
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


def inner_boxes(box: bytes, at: int = 8) -> Iterator[tuple[bytes, bytes]]:
    """Yields (kind, box) of the boxes that lie directly in `box`, from byte `at` on."""
    while at + 8 <= len(box):
        size, kind = struct.unpack_from(">I4s", box, at)
        if size < 8:
            return
        yield kind, box[at : at + size]
        at += size


def count_inner(box: bytes, kind: bytes) -> int:
    """Returns how many boxes of this kind lie directly in `box`."""
    return sum(each == kind for each, _ in inner_boxes(box))


def inner(box: bytes, *path: bytes) -> bytes:
    """Returns the nested box at `path`, which starts with the kind of `box`; b"" without one."""
    if box[4:8] != path[0]:
        return b""
    for kind in path[1:]:
        box = next((found for each, found in inner_boxes(box) if each == kind), b"")
    return box


def without_tags(init: bytes) -> bytes:
    """Returns an init segment without what the file says of itself, which no player needs."""
    at = init.find(b"moov") - 4
    if at < 0:
        return init
    kept = b"".join(box for kind, box in inner_boxes(init[at:]) if kind != b"udta")
    return init[:at] + struct.pack(">I4s", 8 + len(kept), b"moov") + kept


def _default_sample_flags(init: bytes) -> int:
    at = init.find(b"moov")
    trex = inner(init[at - 4 :], b"moov", b"mvex", b"trex") if at >= 4 else b""
    return struct.unpack_from(">I", trex, 28)[0] if trex else 0


def _samples(moof: bytes, default_flags: int) -> tuple[int, bool]:
    """Returns (frames, whether the first is a key frame) of a fragment with one track."""
    tfhd = inner(moof, b"moof", b"traf", b"tfhd")
    has = struct.unpack_from(">I", tfhd, 8)[0] & 0xFFFFFF
    if has & 0x20:
        # before it: track id, then base offset (8), description, duration, size (4 each), where present
        at = 16 + 8 * bool(has & 0x1) + 4 * sum(bool(has & bit) for bit in (0x2, 0x8, 0x10))
        default_flags = struct.unpack_from(">I", tfhd, at)[0]
    trun = inner(moof, b"moof", b"traf", b"trun")
    has, count = struct.unpack_from(">II", trun, 8)
    at = 16 + 4 * bool(has & 0x1)
    if has & 0x4:
        default_flags = struct.unpack_from(">I", trun, at)[0]
    elif has & 0x400:
        at += 4 * sum(bool(has & bit) for bit in (0x100, 0x200))
        default_flags = struct.unpack_from(">I", trun, at)[0]
    return count, not default_flags & NOT_A_KEYFRAME
