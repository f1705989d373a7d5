"""Stand-ins for streams and events of a card that is not there: nothing runs, and a wait is written down."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from rivulet.tests.card.watch import WAIT, Watch


class Event:
    """Of a point in a stream's work."""

    watch: Watch  # of the card

    def __init__(self, *_: Any, **__: Any) -> None:
        """Any options."""

    def record(self, stream: Any = None) -> None:
        """Nothing runs."""

    def wait(self, stream: Any = None) -> None:
        """The card waits, not the program."""

    def synchronize(self) -> None:
        self.watch.note(WAIT, "event")

    def query(self) -> bool:
        return True

    def elapsed_time(self, event: Event) -> float:
        """Milliseconds."""
        return 0.0


class Stream:
    """Of work on a card."""

    watch: Watch
    event: type[Event]

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = device

    def synchronize(self) -> None:
        self.watch.note(WAIT, "stream")

    def wait_stream(self, stream: Stream) -> None:
        """The card waits, not the program."""

    def wait_event(self, event: Event) -> None:
        """The card waits, not the program."""

    def record_event(self, event: Event | None = None) -> Event:
        return event or self.event()

    def query(self) -> bool:
        return True


def standins(watch: Watch) -> dict[str, Any]:
    """By their names in torch.cuda."""
    event = type("Event", (Event,), {"watch": watch})
    stream = type("Stream", (Stream,), {"watch": watch, "event": event})
    current = stream()
    return {
        "Stream": stream,
        "Event": event,
        "stream": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "current_stream": lambda _=None: current,
        "default_stream": lambda _=None: current,
        "synchronize": lambda _=None: watch.note(WAIT, "synchronize"),
    }
