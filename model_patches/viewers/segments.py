"""In-memory buffer of a growing video's newest segments, numbered continuously over all its parts.

Readers never touch the disk, so a part can be joined and deleted while they read. The buffer is bounded in
bytes, so a stream may run for days.
"""

import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from itertools import islice

from ..writer.fmp4 import FragmentIndex

MAX_BYTES = 32 << 20  # about three minutes at 832x480
ANSWER_BYTES = 1 << 20  # the most that one answer carries, unless a single fragment is larger
INIT, MEDIA = "init", "media"


@dataclass(frozen=True, slots=True)
class Place:
    """A key frame, at which a reader can start."""

    init: int  # number of its init segment, to be read first
    segment: int  # number of its fragment
    frame: int  # pixel frame of the stream


@dataclass(frozen=True, slots=True)
class Answer:
    """One init segment, or consecutive fragments."""

    data: bytes
    next: int  # number of the segment after these
    kind: str  # INIT or MEDIA
    first_frame: int | None  # of an init segment: the stream's pixel frame at its time 0


@dataclass(frozen=True, slots=True)
class _StoredFragment:
    number: int
    data: bytes
    place: Place | None  # where it starts with a key frame


class Segments:
    """Init segments and fragments of one video, evicted oldest first beyond `max_bytes`.

    Thread-safe.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.next = 0  # number of the next segment
        self.codec: str | None = None
        self._max_bytes, self._bytes = max_bytes, 0
        self._inits: dict[int, tuple[bytes, int]] = {}  # number -> bytes, first frame of the part
        self._fragments: deque[_StoredFragment] = deque()
        self._places: deque[Place] = deque()
        self._file: FragmentIndex | None = None
        self._init: int | None = None  # number of the file's init segment
        self._lock = threading.Lock()

    @property
    def oldest(self) -> Place | None:
        """The first key frame in the buffer."""
        return self._places[0] if self._places else None

    @property
    def newest(self) -> Place | None:
        """The last key frame in the buffer."""
        return self._places[-1] if self._places else None

    def collect(self, growing: FragmentIndex | None) -> bool:
        """Reads what was written since the last call; returns whether there was anything.

        growing: the writer's index of its newest part, None without one. Every part must be passed while it
        is the newest, or its frames are missing.
        """
        with self._lock:
            before = self.next
            if self._file is not None and (growing is None or growing.path != self._file.path):
                self._read_new(self._file)
                self._close_file()
            if growing is not None and self._file is None:
                # a second index: the writer closes its own when the part ends
                self._file = FragmentIndex(growing.path, first_frame=growing.first_frame)
            if self._file is not None:
                self._read_new(self._file)
            return self.next > before

    def read(self, number: int) -> Answer | None:
        """The segment with this number and fragments after it; None if evicted or not written yet."""
        with self._lock:
            if number in self._inits:
                data, first_frame = self._inits[number]
                return Answer(data, number + 1, INIT, first_frame)
            at = self._position(number)
            if at is None:
                return None
            pieces: list[bytes] = []
            size = 0
            for fragment in islice(self._fragments, at, None):
                size += len(fragment.data)
                if pieces and (size > ANSWER_BYTES or fragment.number != number + len(pieces)):
                    break
                pieces.append(fragment.data)
            return Answer(b"".join(pieces), number + len(pieces), MEDIA, None)

    def place(self, frame: int) -> Place | None:
        """The last key frame in the buffer at or before this pixel frame, or None."""
        with self._lock:
            return next((place for place in reversed(self._places) if place.frame <= frame), None)

    def group(self, place: Place) -> bytes | None:
        """MP4 bytes from this key frame up to the next one; None where it was evicted."""
        with self._lock:
            at = self._position(place.segment)
            if at is None:
                return None
            pieces = [self._inits[place.init][0], self._fragments[at].data]
            for fragment in islice(self._fragments, at + 1, None):
                if fragment.place is not None:
                    break
                pieces.append(fragment.data)
            return b"".join(pieces)

    def close(self) -> None:
        """Closes the file, so that it can be deleted; the buffer stays."""
        with self._lock:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._init = None

    def _read_new(self, file: FragmentIndex) -> None:
        number = file.count
        file.extend()
        if file.init and self._init is None:
            self._inits[self.next] = (file.init, file.first_frame)
            self._init = self.next
            self.codec = self.codec or file.codec
            self.next += 1
        while number < file.count:
            fragment = file.fragment(number)
            data, number = file.read(number, 0)
            assert fragment and self._init is not None
            place = Place(self._init, self.next, fragment.first_frame) if fragment.keyframe else None
            self._store(_StoredFragment(self.next, data, place))
        self._evict()

    def _store(self, fragment: _StoredFragment) -> None:
        self._fragments.append(fragment)
        self._bytes += len(fragment.data)
        self.next += 1
        if fragment.place:
            self._places.append(fragment.place)

    def _evict(self) -> None:
        """Drops the oldest groups of pictures, so that the buffer starts with a key frame."""
        while self._bytes > self._max_bytes and len(self._places) > 1:
            self._places.popleft()
            while self._fragments[0].number < self._places[0].segment:
                self._bytes -= len(self._fragments.popleft().data)
        if self._places:
            first = self._places[0].init
            self._inits = {number: init for number, init in self._inits.items() if number >= first}

    def _position(self, number: int) -> int | None:
        """Index of a fragment in the buffer, or None."""
        at = bisect_left(self._fragments, number, key=lambda fragment: fragment.number)
        return at if at < len(self._fragments) and self._fragments[at].number == number else None
