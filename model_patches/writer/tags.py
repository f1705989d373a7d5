"""What a video says of itself: tags, such as its title and the graph that made it.

In an MP4 they lie in `moov/udta/meta`: an `ilst` of values, named by the `keys` beside it (QuickTime's kind,
which holds any name) or by four letters (iTunes' kind).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .boxes import inner, inner_boxes, read_moov
from .text import plain

log = logging.getLogger(__name__)

# by the names that ffmpeg has for them; every player reads these, others need the kind with keys
COMMON_TAGS = {
    "title": b"\xa9nam",
    "artist": b"\xa9ART",
    "album": b"\xa9alb",
    "comment": b"\xa9cmt",
    "description": b"desc",
    "date": b"\xa9day",
    "genre": b"\xa9gen",
    "copyright": b"cprt",
}
OF_THE_FILE = {"encoder", "major_brand", "minor_version", "compatible_brands"}  # ffmpeg's own
DATA_BYTES = 16  # of a value before its text: size, kind, type, language


def tags_text(metadata: Mapping[str, str]) -> str:
    """Tags as ffmpeg's FFMETADATA text; a command line would limit their length."""
    escaped = str.maketrans({letter: "\\" + letter for letter in "=;#\\\n"})
    return ";FFMETADATA1\n" + "".join(
        f"{plain(str(key)).translate(escaped)}={plain(str(value)).translate(escaped)}\n"
        for key, value in metadata.items()
    )


def tag_flags(metadata: Mapping[str, str]) -> str:
    """What -movflags needs for these tags, after others; "" where every player's kind holds them."""
    return "" if set(metadata) <= set(COMMON_TAGS) else "+use_metadata_tags"


def read_tags(path: Path) -> dict[str, str]:
    """The tags of an MP4, whole or growing; those that ffmpeg adds are left out, as is what is no text."""
    with path.open("rb") as file:
        meta = inner(read_moov(file), b"moov", b"udta", b"meta")
    inside = dict(inner_boxes(meta, 12))  # after its version
    names = {kind: name for name, kind in COMMON_TAGS.items()}
    names |= {
        struct.pack(">I", number): entry[8:].decode("utf-8", "replace")
        for number, (_, entry) in enumerate(inner_boxes(inside.get(b"keys", b""), 16), 1)
    }
    values = {names.get(kind, ""): item for kind, item in inner_boxes(inside.get(b"ilst", b""))}
    return {
        name: item[8 + DATA_BYTES :].decode("utf-8", "replace")
        for name, item in values.items()
        if name and name not in OF_THE_FILE and item[12:16] == b"data"
    }


def tags_of(paths: Sequence[Path]) -> dict[str, str]:
    """The tags of a video's files in order; of two of a name the later one."""
    tags: dict[str, str] = {}
    for path in paths:
        with suppress(OSError):
            tags |= read_tags(path)
    return tags


class TagsFile:
    """Tags in a file beside a video, for as long as an ffmpeg takes to read them."""

    def __init__(self, path: Path) -> None:
        self.path, self._there = path, False

    def write(self, metadata: Mapping[str, str]) -> Path | None:
        """Returns the file; None without tags, and where it cannot be written, which is told."""
        if not metadata:
            return None
        try:
            self._there = True
            self.path.write_text(tags_text(metadata), encoding="utf-8")
        except OSError as why:
            log.warning("Video writer: %s has no tags while it is made (%s).", self.path.name, why)
            return None
        return self.path

    def remove(self) -> None:
        """It has been read, or nobody will."""
        if self._there:
            self._there = False
            with suppress(OSError):
                self.path.unlink()
