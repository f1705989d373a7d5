"""ComfyUI's own server in front of the routes of docs/preview.md; no answer holds its loop up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from aiohttp import web
from comfy.cli_args import args

from ...model_patches.viewers.routes import (
    HEADERS,
    MAX_BODY_BYTES,
    POLL_SECONDS,
    PREFIX,
    Answer,
    RefusedError,
    Request,
    answer,
    error_answer,
    takes_long,
)
from ...model_patches.viewers.senders import why_foreign
from ..run.owners import may_list, note_user
from ..run.session import STREAMS
from ..run.shelf import SHELF

STUCK_SECONDS = 60  # after which a viewer of the endless file who takes nothing is let go

# what reads a file or decodes; few, so that many viewers cannot crowd the generation out
_workers = ThreadPoolExecutor(2, thread_name_prefix="rivulet viewers")

T = TypeVar("T")


def register(routes: web.RouteTableDef, app: web.Application) -> None:
    """Adds the routes, once for a server, however often the pack is loaded, and what notes who asks."""
    if any(getattr(route, "path", "").startswith(f"{PREFIX}/") for route in routes):
        return
    app.middlewares.append(note_user)
    app.on_response_prepare.append(have_asked_again)
    routes.get(f"{PREFIX}/{{rest:.*}}")(serve)
    routes.post(f"{PREFIX}/{{rest:.*}}")(serve)


async def have_asked_again(request: web.Request, response: web.StreamResponse) -> None:
    """Lets no browser mix web modules of an earlier release with newer ones; the host cares for .js alone."""
    if request.path.startswith("/extensions/") and request.path.endswith(".mjs"):
        response.headers.setdefault("Cache-Control", "no-cache")


async def serve(request: web.Request) -> web.StreamResponse:
    """Sends the answer to one request."""
    try:
        check_sender(request)
    except RefusedError as why:
        return response_to(error_answer(why))
    head = request.method == "HEAD"  # the host's routes answer it as GET, without the body
    question = Request(
        "GET" if head else request.method,
        f"{PREFIX}/{request.match_info['rest']}",
        request.query,
        request.content_type,
        await body_of(request),
        partial(may_list, client=request.query.get("client")),
    )
    asked = STREAMS, question, SHELF
    reply = await in_thread(answer, *asked) if takes_long(question) else answer(*asked)
    if reply.file is not None:
        return web.FileResponse(reply.file, headers=HEADERS)
    return response_to(reply) if reply.pieces is None or head else await send_pieces(request, reply)


def check_sender(request: web.Request) -> None:
    """Refuses what another web site sends, more strictly than the host, unless the host lets others in."""
    if args.enable_cors_header:
        return
    place = request.transport and request.transport.get_extra_info("sockname")
    address, port = place[:2] if isinstance(place, tuple) else ("", 0)
    if reason := why_foreign(request.headers, address, port):
        raise RefusedError(403, reason)


async def body_of(request: web.Request) -> bytes:
    """The body, or the beginning of one that is too long."""
    data = b""
    while len(data) <= MAX_BODY_BYTES and (
        piece := await request.content.read(MAX_BODY_BYTES + 1 - len(data))
    ):
        data += piece
    return data


def response_to(reply: Answer) -> web.Response:
    """The response to a complete answer."""
    headers = {**HEADERS, **reply.headers}
    if not reply.kind:
        return web.Response(status=reply.status, headers=headers)
    return web.Response(body=reply.body, status=reply.status, content_type=reply.kind, headers=headers)


async def send_pieces(request: web.Request, reply: Answer) -> web.StreamResponse:
    """An endless file, as fast as it is made and taken."""
    assert reply.pieces is not None
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": reply.kind})
    await response.prepare(request)
    while (piece := await in_thread(next, reply.pieces, None)) is not None:
        if piece:
            await asyncio.wait_for(response.write(piece), STUCK_SECONDS)
        else:
            await asyncio.sleep(POLL_SECONDS)
    await response.write_eof()
    return response


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """What `work(*given)` returns, made outside the server's loop."""
    return await asyncio.get_running_loop().run_in_executor(_workers, copy_context().run, work, *arguments)
