"""What happened in a take: a line of JSON for every prompt and seed, from the block where it took effect."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..stream.state import StreamState
from ..stream.timeline import MODES
from .folder import write_text

MAX_BYTES = 16 << 20  # of a timeline that is read
LASTING = ("cut", "shot", "recache")  # which a later prompt at the same border does not undo, strongest first


@dataclass(frozen=True, slots=True)
class Event:
    """A prompt or a seed that holds from a block on."""

    block: int
    frame: int  # pixel frame of the stream that the block begins with
    prompt: str | None  # as it was typed; None: it was not kept, or the seed alone is told
    mode: str  # how it was gone over to; "": it was not, the seed alone is told
    seed: int

    @property
    def is_lost(self) -> bool:
        """Whether another prompt was gone over to, and which is not known."""
        return self.prompt is None and bool(self.mode)


def event_of(state: StreamState, mode: str) -> Event:
    """The prompt of a state that begins with it, before its block is made."""
    frame = state.ledger.next_frame(state.config.geometry, state.start_frame)
    return Event(state.block, frame, state.text, mode, state.config.seed)


def without_texts(events: Iterable[Event], but: Iterable[Event]) -> tuple[Event, ...]:
    """The events without their prompts, except for those that had the same one before."""
    had = {(event.block, event.prompt) for event in but}
    return tuple(
        event if (event.block, event.prompt) in had else replace(event, prompt=None) for event in events
    )


def with_texts(events: Iterable[Event], remembered: Iterable[Event]) -> tuple[Event, ...]:
    """The events, with the prompts of those whose text was not kept and is remembered."""
    texts = {(each.block, each.frame, each.mode): each.prompt for each in remembered}
    return tuple(
        replace(event, prompt=texts.get((event.block, event.frame, event.mode))) if event.is_lost else event
        for event in events
    )


def append(path: Path, event: Event) -> None:
    """Adds a line, on disk when this returns. Raises OSError."""
    with path.open("ab") as file:
        if file.tell() and not _ends_whole(path):
            file.write(b"\n")
        file.write(_line(event).encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Event]:
    """The events in the order of their blocks; a line that was cut or altered is left out."""
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []
    events = [event for line in lines if (event := _event(line)) is not None]
    return sorted(events, key=lambda event: event.block)


def rewrite(path: Path, events: Iterable[Event]) -> None:
    """Puts these in place of what is there. Raises OSError."""
    write_text(path, "".join(map(_line, events)))


def at_border(events: Sequence[Event]) -> Event:
    """The one event that does what several at the same border do, one after the other.

    No block is made between them, so the last text holds, and what the first of them forgot is forgotten.
    """
    last, modes = events[-1], [event.mode for event in events]
    # a blend goes on from what the block before showed, or is none where another came in meanwhile
    plain = next((mode for mode in reversed(modes) if mode != "blend"), last.mode)
    mode = next((mode for mode in LASTING if mode in modes), plain)
    return last if mode == last.mode else Event(last.block, last.frame, last.prompt, mode, last.seed)


def _line(event: Event) -> str:
    return json.dumps(asdict(event), ensure_ascii=True) + "\n"


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _event(line: str) -> Event | None:
    try:
        told: Any = json.loads(line)
        event = Event(**told)
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = event.block, event.frame, event.seed
    if not all(type(number) is int for number in numbers) or min(event.block, event.frame) < 0:
        return None
    text = event.prompt is None or (isinstance(event.prompt, str) and bool(event.prompt.strip()))
    return event if text and event.mode in (*MODES, "") else None
