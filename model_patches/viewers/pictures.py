"""Single pictures of a stream, for browsers that cannot play its segments."""

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

GROUPS_KEPT = 4  # from key frame to key frame, a second each
QUALITY = 85


class Pictures:
    """Decodes one stream's segments to JPEG, a key frame's group at a time; keeps the newest asked for."""

    def __init__(self, segments: Segments, fps: Fraction) -> None:
        self._segments, self._fps = segments, fps
        self._groups: OrderedDict[int, list[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, frame: int) -> tuple[int, bytes] | None:
        """(frame, JPEG) of this pixel frame, or of the nearest that is kept; None while it is not made."""
        place = self._segments.place(frame) or self._segments.oldest
        if place is None:
            return None
        at = max(0, frame - place.frame)
        with self._lock:
            group = self._groups.get(place.frame, [])
            if at >= len(group):
                group = self._decoded(place)
        return (place.frame + at, group[at]) if at < len(group) else None

    def _decoded(self, place: Place) -> list[bytes]:
        """The newest group grows, so it is decoded again when more of it is wanted."""
        group = [*jpegs(self._segments.group(place) or b"", self._fps)]
        self._groups[place.frame] = group
        self._groups.move_to_end(place.frame)
        if len(self._groups) > GROUPS_KEPT:
            self._groups.popitem(last=False)
        return group


def jpegs(file: bytes, fps: Fraction) -> Iterator[bytes]:
    """Every picture of a video file as JPEG."""
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
