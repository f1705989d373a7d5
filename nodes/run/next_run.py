"""What the next run of a node goes on with, as its page asked: bound to the run it queues, used once."""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from ...model_patches.viewers.mailbox import Redo
from .owners import asking, workflow_of

KEEP_SECONDS = 600  # that a wish waits for its page to queue the workflow
MOST = 256  # wishes, and runs that are bound to one


@dataclass(frozen=True, slots=True)
class NextRun:
    """A take to go on with, and from where."""

    take: str  # path of its video inside the output folder
    redo: Redo = field(default_factory=Redo)


class NextRuns:
    """Wishes of pages by client, workflow and node, then by queued run and node. Thread-safe."""

    def __init__(self) -> None:
        self._wishes: OrderedDict[tuple[str, str, str], tuple[NextRun, float]] = OrderedDict()
        self._bound: OrderedDict[tuple[str, str], NextRun] = OrderedDict()
        self._lock = threading.Lock()

    def wish(self, client: str, workflow: str, node: str, run: NextRun) -> None:
        """The next run that this client queues of this workflow with this node goes on so."""
        with self._lock:
            _add(self._wishes, (_named(client), workflow, node), (run, time.monotonic()))

    def bind(self, prompt_id: str, node: str, run: NextRun) -> None:
        """The node goes on so in the queued run of this id."""
        with self._lock:
            _add(self._bound, (prompt_id, node), run)

    def on_queued(self, message: dict[str, Any]) -> dict[str, Any]:
        """Binds wishes to the run that a page queues; message: as it came to the host, which takes what is
        returned. It gets an id here where it has none.
        """
        graph, more = message.get("prompt"), message.get("extra_data")
        client = message.get("client_id")
        if not isinstance(graph, dict) or not isinstance(client, str):
            return message
        workflow = workflow_of(more.get("extra_pnginfo") if isinstance(more, dict) else None)
        with self._lock:
            due = [key for key in self._wishes if key[:2] == (_named(client), workflow) and key[2] in graph]
            wishes = {key[2]: self._wishes.pop(key) for key in due}
        wishes = {node: run for node, (run, at) in wishes.items() if time.monotonic() - at < KEEP_SECONDS}
        if not wishes:
            return message
        message = {**message, "prompt_id": message.get("prompt_id") or str(uuid.uuid4())}
        for node, run in wishes.items():
            self.bind(message["prompt_id"], node, run)
        return message

    def find(self, prompt_id: str, node: str) -> NextRun | None:
        """How the node goes on in this run; it stays."""
        with self._lock:
            return self._bound.get((prompt_id, node))

    def take(self, prompt_id: str, node: str) -> NextRun | None:
        """How the node goes on in this run; it is used up."""
        with self._lock:
            return self._bound.pop((prompt_id, node), None)


def _named(client: str) -> str:
    """The client with the user whose page it is: ids of others' pages stand in the host's queue."""
    return f"{asking()} {client}"


def _add(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > MOST:
        kept.popitem(last=False)


NEXT_RUNS = NextRuns()
