"""Letting other jobs in between: a run ends at a block border, and its prompt waits behind them to go on."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from server import PromptServer

from .next_run import NEXT_RUNS, NextRun
from .owners import hand_on


@dataclass(frozen=True, slots=True)
class LongRun:
    """What a user wants of a run of hours."""

    stop_on_drift: bool = False
    let_others_in: float = 0.0  # seconds of a turn; 0: only when asked
    part_hours: float = 0.0  # of video in a file; 0: no limit
    part_gigabytes: float = 0.0


def can_yield(prompt_id: str) -> bool:
    """Whether the host's queue has this run, so that it can be queued again."""
    return _running(prompt_id) is not None


def others_wait() -> bool:
    """Whether jobs wait in the host's queue."""
    queue = _queue()
    return queue is not None and bool(queue.get_current_queue()[1])


def queue_again(prompt_id: str, node: str, run: NextRun) -> str:
    """The id of the run that goes on with the node's take, behind all jobs that wait now.

    It is the same job: graph, page, outputs and all that its page sent along. RuntimeError where the host's
    queue does not have the run in progress.
    """
    item = _running(prompt_id)
    if item is None:
        raise RuntimeError("Stream Video: this run is not in ComfyUI's queue, so it cannot be queued again.")
    server, queue, again = PromptServer.instance, _queue(), str(uuid.uuid4())
    waiting = [other[0] for other in queue.get_current_queue()[1]]
    # of two jobs with one number the host takes either, so a page that queues just now does no harm
    number = max([server.number, *(each + 1 for each in waiting)])
    server.number = number + 1
    NEXT_RUNS.bind(again, node, run)
    hand_on(prompt_id, again)
    queue.put((number, again, *item[2:]))
    return again


@dataclass(slots=True)
class Turn:
    """How long a run keeps others waiting, from its first block on."""

    seconds: float  # 0: until somebody asks
    begun: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether others are to come in now."""
        return self.seconds > 0 and time.monotonic() - self.begun >= self.seconds and others_wait()


def _queue() -> Any:
    return getattr(getattr(PromptServer, "instance", None), "prompt_queue", None)


def _running(prompt_id: str) -> tuple[Any, ...] | None:
    """The queue's entry of a run in progress, as it came: the host notes things in its own copy."""
    queue = _queue()
    running = [] if queue is None else queue.get_current_queue()[0]
    return next((item for item in running if item[1] == prompt_id), None)
