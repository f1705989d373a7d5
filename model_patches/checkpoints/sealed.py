"""Safetensors files of our own: a checksum over every byte, by which a changed one is found.

The checksum lies in the metadata under CHECKSUM, as 64 letters; it is that of the file with zeros in its
place.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from .limits import MAX_HEADER_BYTES

CHECKSUM = "checksum"
EMPTY = "0" * 64
PLACE = re.compile(rb'(?<!\\)"checksum":"([0-9a-f]{64})"')  # in JSON, whose texts have their quotes escaped
PIECE = 1 << 20  # bytes read at once


def seal(path: Path) -> None:
    """Writes the checksum of a file that has CHECKSUM: EMPTY in its metadata."""
    with path.open("rb+") as file:
        found = _place(_header(file))
        assert found is not None, f"{path} has no place for a checksum"
        digest = _digest(file, found)
        file.seek(found)
        file.write(digest)


def refuse_changed(caller: str, path: Path, remedy: str) -> bool:
    """ValueError where the bytes of a file are not those that were sealed; whether it has a checksum at all.

    Errors begin with `caller`; `remedy` is what helps. All of the file is read.
    """
    with path.open("rb") as file:
        header = _header(file)
        found = _place(header)
        if found is None:
            return False
        if header[found - 8 : found - 8 + len(EMPTY)] != _digest(file, found):
            raise ValueError(
                f"{caller}: {path} is not as it was written: its checksum does not agree with its bytes, of "
                f"which some were lost or changed, on the disk or on the way. {remedy}"
            )
        return True


def _header(file: BinaryIO) -> bytes:
    """The JSON of an open file, as much of it as is there and ours can have."""
    file.seek(0)
    return file.read(min(int.from_bytes(file.read(8), "little"), MAX_HEADER_BYTES))


def _place(header: bytes) -> int | None:
    """Where in the file the checksum's letters begin."""
    found = PLACE.search(header)
    return None if found is None else 8 + found.start(1)


def _digest(file: BinaryIO, place: int) -> bytes:
    """SHA-256 of the file with zeros where the checksum is, as 64 letters."""
    file.seek(0)
    made = hashlib.sha256(file.read(place))
    made.update(EMPTY.encode())
    file.seek(place + len(EMPTY))
    while piece := file.read(PIECE):
        made.update(piece)
    return made.hexdigest().encode()
