"""The routes of docs/preview.md on ComfyUI's own server. Each answer is short, none waits for the stream."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from aiohttp import web
from comfy.cli_args import args

from ...model_patches.viewers.live import EndedError, LiveStream
from ...model_patches.viewers.mailbox import read_message
from ...model_patches.viewers.segments import INIT, Place
from ..run.session import STREAMS
from .pictures import Pictures

LONGEST_BODY = 8192  # bytes
GLANCE_SECONDS = 0.2  # between looks for more, while the endless file is read faster than it is made
STUCK_SECONDS = 60  # after which a viewer of the endless file who takes nothing is let go
PREFIX = "/rivulet"
FRESH = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

# what reads a file or decodes; few, so that many viewers cannot crowd the generation out
_workers = ThreadPoolExecutor(2, thread_name_prefix="rivulet viewers")

_pictures: WeakKeyDictionary[LiveStream, Pictures] = WeakKeyDictionary()

Made = TypeVar("Made")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answering = Callable[[web.Request, LiveStream], Awaitable[web.StreamResponse]]


class RefusedError(Exception):
    """An answer that says in one sentence what was wrong with the request."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def register(routes: web.RouteTableDef) -> None:
    """Adds the routes, once for a server, however often the pack is loaded."""
    if any(getattr(route, "path", "").startswith(f"{PREFIX}/") for route in routes):
        return
    stream = f"{PREFIX}/stream/{{id}}"
    routes.get(f"{PREFIX}/streams")(streams)
    routes.get(stream)(of_stream(state))
    routes.get(f"{stream}/seg/{{number:[0-9]{{1,15}}}}")(of_stream(segment))
    routes.get(f"{stream}/at/{{frame:[0-9]{{1,15}}}}")(of_stream(at))
    routes.get(f"{stream}/live")(of_stream(live_file))
    routes.get(f"{stream}/frame/{{frame:[0-9]{{1,15}}}}")(of_stream(picture))
    routes.get(f"{stream}/video")(of_stream(video))
    routes.post(f"{stream}/control")(of_stream(control))


def of_stream(answering: Answering) -> Handler:
    """The handler of a path that names a stream; a refusal becomes its sentence."""

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            check_sender(request)
            live = STREAMS.find(request.match_info["id"])
            if live is None:
                raise RefusedError(404, "No such stream; it was forgotten. The file is in the output folder.")
            return await answering(request, live)
        except RefusedError as why:
            return answer({"error": str(why)}, why.status)

    return handler


def check_sender(request: web.Request) -> None:
    """Refuses what another web site sends, more strictly than the host, unless the host lets others in."""
    if args.enable_cors_header:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        named = {request.headers.get("Host", ""), request.headers.get("X-Forwarded-Host", "")}
        foreign = origin is not None and urlsplit(origin).netloc not in named
    if foreign:
        raise RefusedError(403, "Requests from other sites are refused; open ComfyUI's own page.")


async def streams(request: web.Request) -> web.StreamResponse:
    """Every stream that is known, newest first, and which of them the asking client queued."""
    known, client = STREAMS.all(), request.query.get("client")
    own = [live.session for live in known if client is not None and live.client == client]
    return answer({"streams": [live.state(prompts=False) for live in known], "own": own})


async def state(request: web.Request, live: LiveStream) -> web.StreamResponse:
    """The whole state of one stream."""
    await elsewhere(live.collect)
    return answer(live.state())


async def segment(request: web.Request, live: LiveStream) -> web.StreamResponse:
    """One segment, and as many after it as go into one answer."""
    number = int(request.match_info["number"])
    over = live.over
    if number >= live.segments.next:
        await elsewhere(live.collect)
    found = live.segments.read(number)
    if found is None and number >= live.segments.next and not over:
        return web.Response(status=204, headers=FRESH)
    if found is None:
        raise RefusedError(410, f"Segment {number} will not come any more; ask for the state.")
    more = {"X-Rivulet-Next": str(found.next), "X-Rivulet-Kind": found.kind}
    if found.first_frame is not None:
        more["X-Rivulet-Start"] = repr(found.first_frame / live.fps)
    return web.Response(body=found.data, content_type="video/mp4", headers={**FRESH, **more})


async def at(request: web.Request, live: LiveStream) -> web.StreamResponse:
    """The place of the last key frame at or before a frame."""
    return answer(asdict(place_at(live, int(request.match_info["frame"]))))


async def live_file(request: web.Request, live: LiveStream) -> web.StreamResponse:
    """An endless file from a key frame on, until its part or the stream ends."""
    wanted = request.query.get("from", "")
    if not re.fullmatch("[0-9]{1,15}", wanted):
        raise RefusedError(400, f"`from` must be the frame of a place, got {ascii(wanted)[:40]}.")
    place = place_at(live, int(wanted))
    init = live.segments.read(place.init)
    if place.frame != int(wanted) or init is None:
        raise RefusedError(410, f"No key frame is kept at frame {wanted}; ask for a place.")
    response = web.StreamResponse(headers={**FRESH, "Content-Type": "video/mp4"})
    await response.prepare(request)
    await response.write(init.data)
    number = place.segment
    while True:
        over = live.over
        found = live.segments.read(number)
        gone = found is None and (over or number < live.segments.next)
        if gone or (found and found.kind == INIT):
            break
        if found:
            await asyncio.wait_for(response.write(found.data), STUCK_SECONDS)
            number = found.next
        else:
            await asyncio.sleep(GLANCE_SECONDS)
            await elsewhere(live.collect)
    await response.write_eof()
    return response


async def picture(request: web.Request, live: LiveStream) -> web.StreamResponse:
    """One frame as JPEG."""
    frame = int(request.match_info["frame"])
    found = await elsewhere(_pictures.setdefault(live, Pictures(live.segments)).of, frame)
    if found is None:
        return web.Response(status=204, headers=FRESH)
    headers = {**FRESH, "X-Rivulet-Frame": str(found[0])}
    return web.Response(body=found[1], content_type="image/jpeg", headers=headers)


async def video(request: web.Request, live: LiveStream) -> web.StreamResponse:
    """The finished file or a range of it."""
    path = live.writer.result if live.over else None
    if path is None:
        raise RefusedError(404, "The video is not finished yet.")
    if not path.is_file():
        raise RefusedError(404, f"{path.name} is not in the output folder any more.")
    return web.FileResponse(path, headers=FRESH)


async def control(request: web.Request, live: LiveStream) -> web.StreamResponse:
    """Puts a message into the stream's mailbox."""
    try:
        message = read_message(await body_of(request))
        live.ask(message)
    except ValueError as why:
        raise RefusedError(400, str(why)) from why
    except EndedError as why:
        raise RefusedError(409, str(why)) from why
    return answer({"number": message.number}, 202)


def place_at(live: LiveStream, frame: int) -> Place:
    """The last key frame at or before this frame; refused where none is kept or the frame is not made."""
    place = live.segments.place(frame)
    if place is None or frame >= live.writer.frames_written:
        raise RefusedError(410, f"Frame {frame} is forgotten or not made; ask for the state.")
    return place


async def elsewhere(work: Callable[..., Made], *given: Any) -> Made:
    """What `work(*given)` returns, made outside the server's loop."""
    return await asyncio.get_running_loop().run_in_executor(_workers, work, *given)


async def body_of(request: web.Request) -> Any:
    """The request's JSON value, or what is wrong with it."""
    if request.content_type != "application/json":
        raise RefusedError(415, "Send JSON, as application/json.")
    data = b""
    while len(data) <= LONGEST_BODY and (piece := await request.content.read(LONGEST_BODY + 1 - len(data))):
        data += piece
    if len(data) > LONGEST_BODY:
        raise RefusedError(413, f"The message has more than {LONGEST_BODY} bytes; send a shorter one.")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as why:
        raise RefusedError(400, f"The message is no JSON: {str(why)[:100]}.") from why


def answer(value: dict[str, Any], status: int = 200) -> web.Response:
    """A JSON answer that nobody keeps."""
    return web.json_response(value, status=status, headers=FRESH)
