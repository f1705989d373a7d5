"""The newest segments of a growing video, kept in memory and numbered as one row over all its parts.

Readers never touch the disk, and a file that is joined and deleted takes nothing from them. What is kept is
bounded in bytes, so a stream may run for days.
"""

import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from itertools import islice

from ..writer.fmp4 import FragmentIndex

MOST_BYTES = 32 << 20  # about three minutes at 832x480
ANSWER_BYTES = 1 << 20  # the most that one answer carries, unless a single fragment is larger
INIT, MEDIA = "init", "media"


@dataclass(frozen=True, slots=True)
class Place:
    """A key frame: where a reader can begin."""

    init: int  # number of the init segment that must be read before it
    segment: int
    frame: int  # pixel frame of the stream


@dataclass(frozen=True, slots=True)
class Answer:
    """One init segment, or some fragments that follow each other."""

    data: bytes
    next: int  # the number to ask for afterwards
    kind: str  # INIT or MEDIA
    first_frame: int | None  # pixel frame of the stream at which an init segment's own time 0 lies


@dataclass(frozen=True, slots=True)
class _Kept:
    number: int
    data: bytes
    place: Place | None  # of a key frame


class Segments:
    """Init segments and fragments of one video; what is older than the newest `most_bytes` is forgotten.

    Any thread may collect and read.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.next = 0  # the number that the next segment gets
        self.codec: str | None = None
        self._most_bytes, self._bytes = most_bytes, 0
        self._inits: dict[int, tuple[bytes, int]] = {}  # number: its bytes, the part's first frame
        self._kept: deque[_Kept] = deque()
        self._places: deque[Place] = deque()
        self._file: FragmentIndex | None = None
        self._init: int | None = None  # number of the file's init segment
        self._lock = threading.Lock()

    @property
    def oldest(self) -> Place | None:
        """The first key frame that is kept."""
        return self._places[0] if self._places else None

    @property
    def newest(self) -> Place | None:
        """The last key frame."""
        return self._places[-1] if self._places else None

    def collect(self, growing: FragmentIndex | None) -> bool:
        """Takes over what was written since the last call; returns whether that was anything.

        growing: the writer's index of its newest part. Parts before it must have been growing in an earlier
        call, or their frames are not kept.
        """
        with self._lock:
            before = self.next
            if self._file is not None and (growing is None or growing.path != self._file.path):
                self._take_over(self._file)
                self._let_go()
            if growing is not None and self._file is None:
                # one of our own: the writer closes its own when the part ends
                self._file = FragmentIndex(growing.path, first_frame=growing.first_frame)
            if self._file is not None:
                self._take_over(self._file)
            return self.next > before

    def read(self, number: int) -> Answer | None:
        """The segment of that number and fragments after it; None where it is not made or forgotten."""
        with self._lock:
            if number in self._inits:
                data, first_frame = self._inits[number]
                return Answer(data, number + 1, INIT, first_frame)
            at = self._position(number)
            if at is None:
                return None
            pieces: list[bytes] = []
            size = 0
            for kept in islice(self._kept, at, None):
                size += len(kept.data)
                if pieces and (size > ANSWER_BYTES or kept.number != number + len(pieces)):
                    break
                pieces.append(kept.data)
            return Answer(b"".join(pieces), number + len(pieces), MEDIA, None)

    def place(self, frame: int) -> Place | None:
        """The last kept key frame at or before this pixel frame."""
        with self._lock:
            return next((place for place in reversed(self._places) if place.frame <= frame), None)

    def group(self, place: Place) -> bytes | None:
        """A file of the pictures from this key frame to the next one; None where it is forgotten."""
        with self._lock:
            at = self._position(place.segment)
            if at is None:
                return None
            pieces = [self._inits[place.init][0], self._kept[at].data]
            for kept in islice(self._kept, at + 1, None):
                if kept.place is not None:
                    break
                pieces.append(kept.data)
            return b"".join(pieces)

    def close(self) -> None:
        """Lets go of the file, so that it can be deleted; what was collected stays."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._init = None

    def _take_over(self, file: FragmentIndex) -> None:
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
            self._keep(_Kept(self.next, data, place))
        self._forget()

    def _keep(self, kept: _Kept) -> None:
        self._kept.append(kept)
        self._bytes += len(kept.data)
        self.next += 1
        if kept.place:
            self._places.append(kept.place)

    def _forget(self) -> None:
        """Drops the oldest pictures, from key frame to key frame."""
        while self._bytes > self._most_bytes and len(self._places) > 1:
            self._places.popleft()
            while self._kept[0].number < self._places[0].segment:
                self._bytes -= len(self._kept.popleft().data)
        if self._places:
            first = self._places[0].init
            self._inits = {number: init for number, init in self._inits.items() if number >= first}

    def _position(self, number: int) -> int | None:
        """Where a fragment lies among the kept ones."""
        at = bisect_left(self._kept, number, key=lambda kept: kept.number)
        return at if at < len(self._kept) and self._kept[at].number == number else None
