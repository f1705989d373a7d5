"""JPEG frames of a stream, for browsers that cannot play its segments."""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..writer.ffmpeg import Decoder, decode_command, find_ffmpeg
from .segments import Place, Segments

MAX_GROUPS = 4  # decoded groups of pictures in memory, about a second each
QUALITY = 85  # of JPEG, 1 to 95


class Pictures:
    """Decodes one stream's segments to JPEG, one group of pictures at a time, with a cache of MAX_GROUPS."""

    def __init__(self, segments: Segments, fps: Fraction) -> None:
        self._segments, self._fps = segments, fps
        self._groups: OrderedDict[int, list[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, frame: int) -> tuple[int, bytes] | None:
        """(frame, JPEG) of this pixel frame or of one in the oldest stored group; None without either."""
        place = self._segments.place(frame) or self._segments.oldest
        if place is None:
            return None
        at = max(0, frame - place.frame)
        with self._lock:
            group = self._groups.get(place.frame, [])
            if at >= len(group):
                group = self._decode(place)
        return (place.frame + at, group[at]) if at < len(group) else None

    def _decode(self, place: Place) -> list[bytes]:
        """Decodes a group into the cache; the newest grows, so it may be decoded more than once."""
        group = [*decode_jpegs(self._segments.group(place) or b"", self._fps)]
        self._groups[place.frame] = group
        self._groups.move_to_end(place.frame)
        if len(self._groups) > MAX_GROUPS:
            self._groups.popitem(last=False)
        return group


def decode_jpegs(file: bytes, fps: Fraction) -> Iterator[bytes]:
    """Yields every frame of an MP4 file's bytes as JPEG."""
    if not file:
        return
    with tempfile.TemporaryDirectory(prefix="rivulet-") as folder:
        source = Path(folder, "group.mp4")
        source.write_bytes(file)
        decoder = Decoder(decode_command(find_ffmpeg(), source, fps=fps))
        while (picture := decoder.read()) is not None:
            coded = BytesIO()
            Image.fromarray(picture).save(coded, format="JPEG", quality=QUALITY)
            yield coded.getvalue()
        decoder.close()
