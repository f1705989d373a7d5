"""Index of a growing fragmented MP4: byte ranges of its fragments, and which start with a key frame.

A fragmented file is `ftyp moov (moof mdat)*`: the first two are the init segment, each pair after them a
fragment. A reader that has the init segment can start at any fragment that begins with a key frame (ISO/IEC
14496-12, 8.8).
"""

import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO

from .boxes import Fragment, fragments, read_init, without_tags


class FragmentIndex:
    """Fragments of one growing file; of an endless one only the newest `max_fragments` stay.

    `count` fragments were seen, numbered from 0; those below `oldest` are evicted. Thread-safe.
    """

    def __init__(self, path: Path | str, *, first_frame: int = 0, max_fragments: int = 4096) -> None:
        self.path = Path(path)
        self.first_frame = first_frame
        self.count = 0
        self.frames = first_frame
        self.init = b""  # for players: without the file's tags
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
                init = read_init(file)
                self.init, self.end = without_tags(init), len(init)
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
