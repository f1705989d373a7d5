"""Who queued which run: its graph and, where the host has several of them (--multi-user), its user."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from comfy.cli_args import args

from ...model_patches.viewers.live import LiveStream

MOST = 1024  # runs whose owner is known
HEADER = "Comfy-User"  # in which the host's pages say who asks
UNNAMED = "00000000-0000-0000-0000-000000000000"  # id of a graph that the page got without one


@dataclass(frozen=True, slots=True)
class Owner:
    """Who queued a run."""

    user: str = ""  # "": the host has one user
    workflow: str = ""  # id of the graph that it was queued from; "": none was sent


_asking: ContextVar[str] = ContextVar("rivulet user", default="")
_owners: OrderedDict[str, Owner] = OrderedDict()  # by queued run; each call changes one entry, in any thread


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
    message = {**message, "prompt_id": message.get("prompt_id") or str(uuid.uuid4())}
    more = message.get("extra_data")
    workflow = workflow_of(more.get("extra_pnginfo") if isinstance(more, dict) else None)
    _note(str(message["prompt_id"]), Owner(asking(), workflow))
    return message


def workflow_of(extra_pnginfo: Any) -> str:
    """The id of the graph that a run was queued from; "" where none was sent."""
    workflow = extra_pnginfo.get("workflow") if isinstance(extra_pnginfo, dict) else None
    named = workflow.get("id") if isinstance(workflow, dict) else None
    return "" if named in (None, UNNAMED) else str(named)


def owner_of(prompt_id: str) -> Owner:
    """Who queued a run; an unnamed owner of one that is not known."""
    return _owners.get(prompt_id, Owner())


def hand_on(prompt_id: str, again: str) -> None:
    """The run of the id `again` is the same owner's as that of `prompt_id`."""
    if prompt_id in _owners:
        _note(again, _owners[prompt_id])


def _note(prompt_id: str, owner: Owner) -> None:
    _owners[prompt_id] = owner
    if len(_owners) > MOST:
        _owners.popitem(last=False)


def may_list(live: LiveStream, client: str | None) -> bool:
    """Whether a page is told of a stream without knowing its id.

    client: id of the page that asks, as it says. Of several users each is told of what that page queued, or
    was given once more, and that user alone; what no page queued is told to nobody.
    """
    if not args.multi_user:
        return True
    owner = _owners.get(live.prompt_id)
    return client in live.clients() and owner is not None and owner.user == asking()
