"""The routes of docs/preview.md without a server: a request's plain values come in, an answer goes out.

None waits for the stream. A server adds how bytes travel, and whom it lets in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .live import EndedError, LiveStream
from .mailbox import read_message
from .segments import INIT, Place
from .streams import Streams

PREFIX = "/rivulet"
LONGEST_BODY = 8192  # bytes
GLANCE_SECONDS = 0.2  # between looks for more, while the endless file is read faster than it is made
VIDEO = "video/mp4"
GONE = "No such stream; it was forgotten. The file is in the output folder."
FRESH = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # of every answer


@dataclass(frozen=True, slots=True)
class Request:
    """What a viewer asks for."""

    method: str
    path: str  # from PREFIX on
    query: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""  # of the body
    body: bytes = b""  # one byte more than LONGEST_BODY stands for any longer one


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: the body, else the file or a range of it, else the pieces as they come."""

    status: int
    body: bytes = b""
    kind: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    pieces: Iterator[bytes] | None = None  # an empty one: nothing yet, ask again after GLANCE_SECONDS


class RefusedError(Exception):
    """An answer that says in one sentence what was wrong with the request."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def answer(streams: Streams, request: Request) -> Answer:
    """The answer to a request about these streams; a refusal becomes its sentence."""
    try:
        if (request.method, request.path) == ("GET", f"{PREFIX}/streams"):
            return known(streams, request)
        for route in ROUTES:
            match = route.match(request)
            if match:
                live = streams.find(match[1])
                if live is None:
                    raise RefusedError(404, GONE)
                return route.answer(live, request, *map(int, match.groups()[1:]))
        raise RefusedError(404, f"There is no {request.method} {request.path[:100]} here.")
    except RefusedError as why:
        return refusal(why)


def refusal(why: RefusedError) -> Answer:
    """The sentence as an answer."""
    return told({"error": str(why)}, why.status)


def told(value: dict[str, Any], status: int = 200) -> Answer:
    """A JSON answer."""
    return Answer(status, json.dumps(value).encode(), "application/json")


def takes_long(request: Request) -> bool:
    """Whether answering reads a file or decodes; the other answers are there at once."""
    return any(route.takes_long and route.match(request) for route in ROUTES)


def known(streams: Streams, request: Request) -> Answer:
    """Every stream that is known, newest first, and which of them the asking client queued."""
    lives, client = streams.all(), request.query.get("client")
    own = [live.session for live in lives if client is not None and live.client == client]
    return told({"streams": [live.state(prompts=False) for live in lives], "own": own})


def state(live: LiveStream, request: Request) -> Answer:
    """The whole state of one stream."""
    live.collect()
    return told(live.state())


def segment(live: LiveStream, request: Request, number: int) -> Answer:
    """One segment, and as many after it as go into one answer."""
    over = live.over
    if number >= live.segments.next:
        live.collect()
    found = live.segments.read(number)
    if found is None and number >= live.segments.next and not over:
        return Answer(204)
    if found is None:
        raise RefusedError(410, f"Segment {number} will not come any more; ask for the state.")
    more = {"X-Rivulet-Next": str(found.next), "X-Rivulet-Kind": found.kind}
    if found.first_frame is not None:
        more["X-Rivulet-Start"] = repr(found.first_frame / live.fps)
    return Answer(200, found.data, VIDEO, more)


def at(live: LiveStream, request: Request, frame: int) -> Answer:
    """The place of the last key frame at or before a frame."""
    return told(asdict(place_at(live, frame)))


def live_file(live: LiveStream, request: Request) -> Answer:
    """An endless file from a key frame on, until its part or the stream ends."""
    wanted = request.query.get("from", "")
    if not re.fullmatch("[0-9]{1,15}", wanted):
        raise RefusedError(400, f"`from` must be the frame of a place, got {ascii(wanted)[:40]}.")
    place = place_at(live, int(wanted))
    init = live.segments.read(place.init)
    if place.frame != int(wanted) or init is None:
        raise RefusedError(410, f"No key frame is kept at frame {wanted}; ask for a place.")
    return Answer(200, kind=VIDEO, pieces=pieces(live, init.data, place.segment))


def pieces(live: LiveStream, init: bytes, number: int) -> Iterator[bytes]:
    """An init segment and the fragments from this number on."""
    yield init
    while True:
        over = live.over
        found = live.segments.read(number)
        gone = found is None and (over or number < live.segments.next)
        if gone or (found and found.kind == INIT):
            return
        if found:
            number = found.next
            yield found.data
        else:
            yield b""
            live.collect()


def picture(live: LiveStream, request: Request, frame: int) -> Answer:
    """One frame as JPEG."""
    found = live.pictures.of(frame)
    if found is None:
        return Answer(204)
    return Answer(200, found[1], "image/jpeg", {"X-Rivulet-Frame": str(found[0])})


def video(live: LiveStream, request: Request) -> Answer:
    """The finished file."""
    path = live.writer.result if live.over else None
    if path is None:
        raise RefusedError(404, "The video is not finished yet.")
    if not path.is_file():
        raise RefusedError(404, f"{path.name} is not in the output folder any more.")
    return Answer(200, kind=VIDEO, file=path)


def control(live: LiveStream, request: Request) -> Answer:
    """Puts a message into the stream's mailbox."""
    try:
        message = read_message(value_of(request))
        live.ask(message)
    except ValueError as why:
        raise RefusedError(400, str(why)) from why
    except EndedError as why:
        raise RefusedError(409, str(why)) from why
    return told({"number": message.number}, 202)


def value_of(request: Request) -> Any:
    """The request's JSON value, or what is wrong with it."""
    if request.kind != "application/json":
        raise RefusedError(415, "Send JSON, as application/json.")
    if len(request.body) > LONGEST_BODY:
        raise RefusedError(413, f"The message has more than {LONGEST_BODY} bytes; send a shorter one.")
    try:
        return json.loads(request.body.decode("utf-8"))
    except (ValueError, RecursionError) as why:
        raise RefusedError(400, f"The message is no JSON: {str(why)[:100]}.") from why


def place_at(live: LiveStream, frame: int) -> Place:
    """The last key frame at or before this frame; refused where none is kept or the frame is not made."""
    place = live.segments.place(frame)
    if place is None or frame >= live.writer.frames_written:
        raise RefusedError(410, f"Frame {frame} is forgotten or not made; ask for the state.")
    return place


@dataclass(frozen=True, slots=True)
class Route:
    """What is asked of one stream under a path."""

    rest: str  # of the path, after the stream's id
    answer: Callable[..., Answer]
    method: str = "GET"
    takes_long: bool = False

    def match(self, request: Request) -> re.Match[str] | None:
        """The stream's id and the number in the path, or None where another path is asked for."""
        if request.method != self.method:
            return None
        return re.fullmatch(rf"{PREFIX}/stream/([0-9A-Za-z]{{1,64}}){self.rest}", request.path)


ROUTES = (
    Route("", state, takes_long=True),
    Route("/seg/([0-9]{1,15})", segment, takes_long=True),
    Route("/at/([0-9]{1,15})", at),
    Route("/live", live_file),
    Route("/frame/([0-9]{1,15})", picture, takes_long=True),
    Route("/video", video, takes_long=True),
    Route("/control", control, method="POST"),
)
