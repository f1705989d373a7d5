"""HTTP routes of docs/preview.md without a server: plain request values in, an answer out.

No route blocks on the stream. Sockets and access control are the server's part.
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
from .streams import Streams, read_got
from .takes import BusyError, KnownTakes, read_deletion, read_go_on

PREFIX = "/rivulet"
MAX_BODY_BYTES = 65536  # bytes: the longest prompt, each letter as two escapes of six
POLL_SECONDS = 0.2  # between polls of an endless file at its end
VIDEO = "video/mp4"
NO_STREAM = (
    "No stream has this id any more; its file is in the output folder. List the streams to see the newest."
)
NO_TAKE = "No take has this id; list the takes again, since the server may have been started anew."
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # in every answer


@dataclass(frozen=True, slots=True)
class Request:
    """A viewer's HTTP request."""

    method: str
    path: str  # from PREFIX on
    query: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""  # content type of the body
    body: bytes = b""  # cut to MAX_BODY_BYTES + 1, which marks a longer one
    may_list: Callable[[LiveStream], bool] = lambda live: True  # whoever knows a stream's id needs no list


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: a body, a file (or a range of it), or pieces as they come."""

    status: int
    body: bytes = b""
    kind: str = ""  # content type
    headers: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    pieces: Iterator[bytes] | None = None  # an empty one: nothing yet, poll after POLL_SECONDS


class RefusedError(Exception):
    """A request that is refused, with the HTTP status and a sentence for the user."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def answer(streams: Streams, request: Request, takes: KnownTakes | None = None) -> Answer:
    """The answer to a request about these streams and takes; a RefusedError becomes an error answer."""
    try:
        if (request.method, request.path) == ("GET", f"{PREFIX}/streams"):
            return list_streams(streams, request)
        if (request.method, request.path) == ("POST", f"{PREFIX}/given"):
            return note_given(streams, request)
        if takes is not None and (reply := answer_about_takes(takes, request)) is not None:
            return reply
        for route in ROUTES:
            match = route.match(request)
            if match:
                live = streams.find(match[1])
                if live is None:
                    raise RefusedError(404, NO_STREAM)
                return route.answer(live, request, *map(int, match.groups()[1:]))
        raise RefusedError(404, f"There is no {request.method} {request.path[:100]} here.")
    except RefusedError as why:
        return error_answer(why)


def error_answer(why: RefusedError) -> Answer:
    """The JSON answer {"error": sentence}."""
    return json_answer({"error": str(why)}, why.status)


def json_answer(value: dict[str, Any], status: int = 200) -> Answer:
    """The value as a JSON answer."""
    return Answer(status, json.dumps(value).encode(), "application/json")


def takes_long(request: Request) -> bool:
    """Whether the answer reads a file or decodes, so that a server should use a worker thread."""
    if request.path == f"{PREFIX}/takes" or TAKE.fullmatch(request.path):
        return True
    return any(route.takes_long and route.match(request) for route in ROUTES)


def answer_about_takes(takes: KnownTakes, request: Request) -> Answer | None:
    """The answer to a request about takes on disk; None: it is not about them."""
    if (request.method, request.path) == ("GET", f"{PREFIX}/takes"):
        return json_answer({"takes": takes.listed()})
    match = TAKE.fullmatch(request.path)
    if match is None or (request.method, match[2]) not in ABOUT_A_TAKE:
        return None
    try:
        if match[2] == "picture":
            picture = takes.picture(match[1])
            return Answer(204) if picture is None else Answer(200, picture, "image/jpeg")
        if match[2] == "timeline":
            return json_answer({"timeline": takes.timeline(match[1])})
        if match[2] == "delete":
            takes.delete(match[1], read_deletion(parse_json(request)))
            return json_answer({})
        takes.go_on(match[1], read_go_on(parse_json(request)))
    except KeyError as why:
        raise RefusedError(404, NO_TAKE) from why
    except ValueError as why:
        raise RefusedError(400, str(why)) from why
    except BusyError as why:
        raise RefusedError(409, str(why)) from why
    return json_answer({}, 202)


def list_streams(streams: Streams, request: Request) -> Answer:
    """All streams that the request may list, newest first, the ids of those that the client in the query
    queued, and of those that runs of it were given once more."""
    client = request.query.get("client")
    lives = [live for live in streams.all() if request.may_list(live)]
    return json_answer(
        {
            "streams": [live.state(prompts=False) for live in lives],
            "own": [live.session for live in lives if client is not None and live.client == client],
            "given": [
                {"session": live.session, "workflow": given.workflow, "at": given.at}
                for live in lives
                for given in live.given.copy()
                if given.client == client
            ],
        }
    )


def note_given(streams: Streams, request: Request) -> Answer:
    """Takes a page's word on what the host gave it from its cache; whether that is a stream of this list."""
    try:
        return json_answer({"known": streams.give(read_got(parse_json(request)))})
    except ValueError as why:
        raise RefusedError(400, str(why)) from why


def state(live: LiveStream, request: Request) -> Answer:
    """One stream's state with its prompts, without those that the viewer says to have."""
    known = request.query.get("prompts", "0")
    if not re.fullmatch("[0-9]{1,15}", known):
        raise RefusedError(400, f"`prompts` must be how many are known already, got {ascii(known)[:40]}.")
    live.collect()
    return json_answer(live.state(after=int(known)))


def segment(live: LiveStream, request: Request, number: int) -> Answer:
    """A segment and those after it that fit into one answer; 204 where it does not exist yet, 410 after."""
    over = live.over
    if number >= live.segments.next:
        live.collect()
    found = live.segments.read(number)
    if found is None and number >= live.segments.next and not over:
        return Answer(204)
    if found is None:
        raise RefusedError(
            410,
            f"Segment {number} is not in the buffer any more; read the state and start at one of its places.",
        )
    more = {"X-Rivulet-Next": str(found.next), "X-Rivulet-Kind": found.kind}
    if found.first_frame is not None:
        more["X-Rivulet-Start"] = repr(found.first_frame / live.fps)
    return Answer(200, found.data, VIDEO, more)


def at(live: LiveStream, request: Request, frame: int) -> Answer:
    """The last key frame at or before a frame."""
    return json_answer(asdict(find_place(live, frame)))


def live_file(live: LiveStream, request: Request) -> Answer:
    """An MP4 from a key frame up to the end of its part or of the stream."""
    wanted = request.query.get("from", "")
    if not re.fullmatch("[0-9]{1,15}", wanted):
        raise RefusedError(400, f"`from` must be the frame of a place, got {ascii(wanted)[:40]}.")
    place = find_place(live, int(wanted))
    init = live.segments.read(place.init)
    if place.frame != int(wanted) or init is None:
        raise RefusedError(
            410, f"No key frame is in the buffer at frame {wanted}; request /at/{wanted} for one."
        )
    return Answer(200, kind=VIDEO, pieces=pieces(live, init.data, place.segment))


def pieces(live: LiveStream, init: bytes, number: int) -> Iterator[bytes]:
    """Yields an init segment and the fragments from this number on."""
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
    """One frame as JPEG; 204 where there is none yet."""
    found = live.pictures.read(frame)
    if found is None:
        return Answer(204)
    return Answer(200, found[1], "image/jpeg", {"X-Rivulet-Frame": str(found[0])})


def video(live: LiveStream, request: Request) -> Answer:
    """The finished file."""
    path = live.writer.result if live.over else None
    if path is None:
        raise RefusedError(404, "The video is not finished yet; wait until the stream has ended.")
    if not path.is_file():
        raise RefusedError(
            404, f"{path.name} is not in the output folder any more; queue the workflow to make it again."
        )
    return Answer(200, kind=VIDEO, file=path)


def control(live: LiveStream, request: Request) -> Answer:
    """Submits the message in the body; 202 with its number, 400 where it is wrong, 409 after the end."""
    try:
        message = read_message(parse_json(request))
        live.ask(message)
    except ValueError as why:
        raise RefusedError(400, str(why)) from why
    except EndedError as why:
        raise RefusedError(409, str(why)) from why
    return json_answer({"number": message.number}, 202)


def parse_json(request: Request) -> Any:
    """The body's JSON value; RefusedError 415, 413 or 400 for another type, size or syntax."""
    if request.kind != "application/json":
        raise RefusedError(
            415, f"The content type is {ascii(request.kind)[:60]}; send JSON as application/json."
        )
    if len(request.body) > MAX_BODY_BYTES:
        raise RefusedError(413, f"The message has more than {MAX_BODY_BYTES} bytes; send a shorter one.")
    try:
        return json.loads(request.body.decode("utf-8"))
    except (ValueError, RecursionError) as why:
        raise RefusedError(400, f"The message is no JSON: {str(why)[:100]}.") from why


def find_place(live: LiveStream, frame: int) -> Place:
    """The last key frame at or before this frame; RefusedError 410 where the buffer has none."""
    place = live.segments.place(frame)
    if place is None or frame >= live.writer.frames_written:
        raise RefusedError(
            410, f"Frame {frame} is not in the buffer; read the state for the frames that are."
        )
    return place


TAKE = re.compile(rf"{PREFIX}/take/([0-9A-Za-z]{{1,64}})/(picture|timeline|go-on|delete)")
ABOUT_A_TAKE = (("GET", "picture"), ("GET", "timeline"), ("POST", "go-on"), ("POST", "delete"))


@dataclass(frozen=True, slots=True)
class Route:
    """A handler for one stream under a path."""

    rest: str  # pattern of the path after the stream's id
    answer: Callable[..., Answer]
    method: str = "GET"
    takes_long: bool = False

    def match(self, request: Request) -> re.Match[str] | None:
        """The match with the stream's id and the number in the path, or None for another path."""
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
