"""How a run in ComfyUI sends a stream's state to its page, and sees that it was interrupted."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from server import PromptServer

from ...model_patches.takes.make import Offers
from ...model_patches.viewers.live import LiveStream
from ...model_patches.viewers.session import Session
from ...model_patches.viewers.streams import Streams

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
