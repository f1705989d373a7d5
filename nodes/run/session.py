"""How a run in ComfyUI sends a stream's state to its page, and sees that it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from server import PromptServer

from ...model_patches.takes.make import Offers
from ...model_patches.viewers.live import Given, LiveStream
from ...model_patches.viewers.session import Session
from ...model_patches.viewers.streams import Streams
from .owners import owner_of
from .take_files import name_of

EVENT = "rivulet.stream"

STREAMS = Streams()


def session_of(
    live: LiveStream, device: torch.device, offers: Offers | None = None, *, yields: bool = False
) -> Session:
    """The session of a stream that the run in progress makes on a device; offers: of its take.

    yields: it can let other jobs in.
    """

    def send(state: dict[str, Any]) -> None:
        # sent to nobody, it would go to every page of every user
        if live.client is not None:
            PromptServer.instance.send_sync(EVENT, state, live.client)

    offers = offers or Offers()
    check = comfy.model_management.throw_exception_if_processing_interrupted
    watched = {"send": send, "check": check, "vram": lambda: vram_of(device)}
    return Session(live, STREAMS, **watched, rewind=offers.rewind, mark=offers.mark, can_yield=yields)


def may_give(prompt_id: str, node: str, sessions: Mapping[Path, str]) -> None:
    """The host may answer the run in progress from its cache, with a take of one of these sessions.

    sessions: by the take's first file. Of several users each is told of what the same user made.
    """
    client, owner = client_of_run(), owner_of(prompt_id)
    if client is None:
        return
    known = {name_of(path): live for path, id in sessions.items() if (live := STREAMS.find(id)) is not None}
    own = {name: live.session for name, live in known.items() if owner_of(live.prompt_id).user == owner.user}
    STREAMS.may_give(prompt_id, node, own, Given(client, owner.workflow, time.time()))


def client_of_run() -> str | None:
    """The page that queued the run in progress; None where no page did."""
    server = getattr(PromptServer, "instance", None)
    return server.client_id if server else None


def vram_of(device: torch.device) -> dict[str, int] | None:
    """Bytes used and there on a card; None on a processor, whose memory is not the model's alone."""
    if device.type == "cpu":
        return None
    total = int(comfy.model_management.get_total_memory(device))
    return {"used": total - int(comfy.model_management.get_free_memory(device)), "total": total}
