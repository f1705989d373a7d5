"""A card that becomes full in the middle of a stream: it goes on, or stops and keeps what was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..stream.card_memory import CardFullError
from ..stream.model_caller import ModelCaller
from .clock import Clock
from .finding import BROKEN, OK, SKIPPED, Finding
from .streams import Run
from .subject import BLOCKS, Subject

# bytes, the largest first; 512 is the least that torch's allocator hands out
PIECES = (1 << 26, 1 << 23, 1 << 20, 1 << 16, 1 << 12, 512)
BEFORE = 2  # blocks before the card is full
CASES = {"Card full, room can be made": True, "Card full, no room": False}
WAY = "leave memory free: a smaller cache in Small Cache, a smaller picture, other programs closed"


class Filling(Protocol):
    """What makes a card full, and gives its memory back."""

    def load(self) -> None:
        """From here on the next tensor has no place."""
        ...

    def drop(self) -> None:
        """From here on there is room again."""
        ...


Limit = Callable[[torch.device], AbstractContextManager[Filling]]


class _Ballast:
    """Tensors that fill a card up to its limit."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._held = device, list[Tensor]()

    def load(self) -> None:
        for size in PIECES:
            while self._takes(size):
                pass

    def _takes(self, size: int) -> bool:
        try:
            self._held.append(torch.empty(size, dtype=torch.uint8, device=self._device))
        except torch.OutOfMemoryError:
            return False
        return True

    def drop(self) -> None:
        self._held.clear()


class _RoomMaker(ModelCaller):
    """A caller that has something to give back, as a host has its other models."""

    room: Filling | None = None
    asked = 0

    def make_room(self, *, keep_model: bool) -> None:
        super().make_room(keep_model=keep_model)
        self.asked += 1
        if self.room is not None:
            self.room.drop()


@contextmanager
def limited(device: torch.device) -> Iterator[Filling]:
    """No more of the card's memory than is taken now; the limit is as before, however it ends."""
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
    before, ballast = fraction(device), _Ballast(device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    taken = torch.cuda.memory_reserved(device)
    try:
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(taken, 1 << 20) / total), device)
        yield ballast
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)
        ballast.drop()


def _why_no_limit(device: torch.device) -> str:
    """Reason why no limit can be set there, "" where one can."""
    if device.type != "cuda":
        return "only cards of NVIDIA and AMD take a limit"
    try:
        with limited(device):
            return ""
    except (RuntimeError, NotImplementedError) as why:  # another allocator than torch's
        return f"this allocator takes no limit: {why}"


def check_out_of_memory(
    subject: Subject, device: torch.device, clock: Clock, limit: Limit = limited
) -> Iterator[Finding]:
    """The card full in a block, once with room that can be made, once without."""
    if limit is limited and (why := _why_no_limit(device)):
        yield Finding("Card full", SKIPPED, why)
        return
    whole = Run(subject.on(device, subject.dtype), clock).go_on(BLOCKS)
    for name, helps in CASES.items():
        start = subject.on(device, subject.dtype)
        caller = _RoomMaker(start.caller.tree, device)
        stream = Run(replace(start, caller=caller), clock).go_on(BEFORE)
        yield _judged(name, stream, caller, limit, helps, whole)


def _judged(name: str, stream: Run, caller: _RoomMaker, limit: Limit, helps: bool, whole: Run) -> Finding:
    said = ""
    with limit(caller.device) as filling:
        caller.room = filling if helps else None
        filling.load()
        try:
            stream.go_on(1)
        except CardFullError as error:
            said = str(error)
        finally:
            filling.drop()
    if not caller.asked:
        return Finding(name, SKIPPED, "no block was stopped here: the system lends a full card other memory")
    if helps and said:
        return Finding(name, BROKEN, f"the stream ended although there was room again: {said}", WAY)
    if len(stream.latents) < BLOCKS:
        stream.go_on(BLOCKS - len(stream.latents))
    if not torch.equal(stream.whole_BCTHW, whole.whole_BCTHW):
        return Finding(name, BROKEN, "after it the stream has other bits", WAY)
    end = "it stopped and kept all blocks" if said else "it made room and went on"
    return Finding(name, OK, f"{end}; then the same bits as without")
