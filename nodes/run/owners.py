"""Which user queued which run, where the host has several of them (--multi-user)."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from comfy.cli_args import args

from ...model_patches.viewers.live import LiveStream

MOST = 1024  # runs whose user is known
HEADER = "Comfy-User"  # in which the host's pages say who asks

_asking: ContextVar[str] = ContextVar("rivulet user", default="")
_users: OrderedDict[str, str] = OrderedDict()  # by queued run; each call changes one entry, in any thread


def asking() -> str:
    """The user whose request is being answered; "" where the host has one user."""
    return _asking.get()


@web.middleware
async def note_user(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Remembers who asks, for as long as the answer takes."""
    _asking.set(request.headers.get(HEADER, "default") if args.multi_user else "")
    return await handler(request)


def on_queued(message: dict[str, Any]) -> dict[str, Any]:
    """Notes whose run is queued; message: as it came to the host, which takes what is returned."""
    if not args.multi_user:
        return message
    message = {**message, "prompt_id": message.get("prompt_id") or str(uuid.uuid4())}
    _note(str(message["prompt_id"]), asking())
    return message


def hand_on(prompt_id: str, again: str) -> None:
    """The run of the id `again` is the same user's as that of `prompt_id`."""
    if prompt_id in _users:
        _note(again, _users[prompt_id])


def _note(prompt_id: str, user: str) -> None:
    _users[prompt_id] = user
    if len(_users) > MOST:
        _users.popitem(last=False)


def may_list(live: LiveStream, client: str | None) -> bool:
    """Whether a page is told of a stream without knowing its id.

    client: id of the page that asks, as it says. Of several users each is told of what that page queued and
    that user alone; what no page queued is told to nobody.
    """
    if not args.multi_user:
        return True
    return live.client is not None and live.client == client and _users.get(live.prompt_id) == asking()
