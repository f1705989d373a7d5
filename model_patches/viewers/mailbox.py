"""Messages from viewers to a running stream: put by any thread, taken between two blocks."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("pause", "resume", "stop", "prompt", "redo", "mark", "yield")
MAX_PROMPT_LETTERS = 4000  # letters
MAX_MODE_LETTERS = 20
MAX_VIEWER = 64  # letters
MAX_NUMBER = 2**53 - 1  # the largest integer that is exact in JavaScript
MAX_SEED = 2**64 - 1
MAX_ACKNOWLEDGED = 64  # newest outcomes that the state lists
MAX_KNOWN = 4096  # messages whose repetition is recognised


@dataclass(frozen=True, slots=True)
class Redo:
    """From where a take is gone on with, and what is to be another than it was."""

    frame: int | None = None  # pixel frame that is the first to be made again; None: its end
    prompt: str = ""  # "": as it was
    mode: str = ""  # how to go over to the prompt; "": the first that is offered
    seed: int | None = None  # None: as it was


@dataclass(frozen=True, slots=True)
class Message:
    """One request of one viewer; prompt and mode are read for `prompt` and `redo`, the rest for `redo`."""

    viewer: str
    number: int  # 1, 2, ..., counted by the viewer
    do: str  # one of KINDS
    prompt: str = ""
    mode: str = ""
    frame: int | None = None  # pixel frame of the take
    seed: int | None = None

    @property
    def redo(self) -> Redo:
        """What is to be made again, and how."""
        return Redo(self.frame, self.prompt, self.mode, self.seed)


def read_message(body: Any) -> Message:
    """The message in a JSON value; ValueError names the wrong field, what it got and what it needs."""
    if not isinstance(body, dict):
        raise ValueError(f'Send a JSON object such as {{"do": "pause"}}, not {type(body).__name__}.')
    viewer, number, do = body.get("viewer"), body.get("number"), body.get("do")
    if not isinstance(viewer, str) or not 1 <= len(viewer) <= MAX_VIEWER or not viewer.isprintable():
        raise ValueError(f"`viewer` must be a text of 1 to {MAX_VIEWER} letters, got {_short(viewer)}.")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_NUMBER:
        raise ValueError(f"`number` must be a whole number, 1 or more, got {_short(number)}; count them up.")
    if do not in KINDS:
        raise ValueError(f"`do` must be one of {', '.join(KINDS)}, got {_short(do)}.")
    if do == "redo":
        redo = read_redo(body)
        if redo.frame is None:
            raise ValueError("`frame` is missing; send the picture that is to be the first one made again.")
        return Message(viewer, number, do, redo.prompt, redo.mode, redo.frame, redo.seed)
    if do != "prompt":
        return Message(viewer, number, do)
    return Message(viewer, number, do, _prompt(body.get("prompt")), _mode(body.get("mode")))


def read_redo(body: dict[str, Any]) -> Redo:
    """Where to go on with a take, of a JSON object; any field may be left out. Errors as `read_message`."""
    prompt, mode = body.get("prompt"), body.get("mode")
    return Redo(
        _whole(body, "frame", MAX_NUMBER),
        "" if prompt is None else _prompt(prompt),
        "" if mode is None else _mode(mode),
        _seed(body),
    )


def _whole(body: dict[str, Any], name: str, most: int) -> int | None:
    value = body.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most):
        return value
    raise ValueError(f"`{name}` must be a whole number from 0 to {most}, got {_short(value)}.")


def _seed(body: dict[str, Any]) -> int | None:
    """A seed; pages send it as text, because their own numbers are not exact so far up."""
    value = body.get("seed")
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(MAX_SEED)):
        value = int(value)
    return _whole({"seed": value}, "seed", MAX_SEED)


def _prompt(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`prompt` must be a text that says what to show, got {_short(value)}.")
    if len(value) > MAX_PROMPT_LETTERS:
        raise ValueError(
            f"The prompt has {len(value)} letters, at most {MAX_PROMPT_LETTERS} are read; shorten it."
        )
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(
            "The prompt has letters of no script (NUL or a lone surrogate); remove them or type it again."
        )
    return " ".join(value.split())


def _mode(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_MODE_LETTERS:
        raise ValueError(f"`mode` must be the name of a switch mode, got {_short(value)}.")
    return value


def _short(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    shown = ascii(value) if isinstance(value, str | int | float) else type(value).__name__
    return shown if len(shown) <= 40 else shown[:40] + "..."


class Mailbox:
    """Pending messages, at most one of a kind (the newest), and the outcomes of settled ones. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Message] = OrderedDict()
        self._known: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._acknowledged: deque[dict[str, Any]] = deque(maxlen=MAX_ACKNOWLEDGED)
        self._applied: set[str] = set()
        self._changed = threading.Condition()

    @property
    def pending(self) -> list[dict[str, Any]]:
        """Messages that wait for the next block, oldest first."""
        with self._changed:
            return [asdict(message) for message in self._waiting.values()]

    @property
    def acknowledged(self) -> list[dict[str, Any]]:
        """The newest outcomes: viewer, number, outcome, sentence, block, first_frame."""
        with self._changed:
            return list(self._acknowledged)

    @property
    def applied_kinds(self) -> frozenset[str]:
        """The kinds of messages that took effect."""
        with self._changed:
            return frozenset(self._applied)

    def has_seen(self, message: Message) -> bool:
        """Whether this viewer's message with this number was put before."""
        with self._changed:
            return (message.viewer, message.number) in self._known

    def put(self, message: Message) -> bool:
        """Adds a message; returns False for a repeated one, which changes nothing."""
        key = (message.viewer, message.number)
        with self._changed:
            if key in self._known:
                return False
            self._known[key] = None
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
            earlier = self._waiting.pop(message.do, None)
            if earlier is not None:
                self._acknowledge(earlier, "replaced")
            self._waiting[message.do] = message
            self._changed.notify_all()
            return True

    def take(self, kinds: Collection[str]) -> list[Message]:
        """Removes and returns the pending messages of these kinds, oldest first; the caller settles each."""
        with self._changed:
            messages = [message for kind, message in self._waiting.items() if kind in kinds]
            for message in messages:
                del self._waiting[message.do]
            return messages

    def settle(
        self,
        message: Message,
        outcome: str,
        sentence: str = "",
        block: int | None = None,
        first_frame: int | None = None,
    ) -> None:
        """Stores the outcome of a message, `done` or `refused`; block, first_frame: where it takes effect."""
        with self._changed:
            if outcome == "done":
                self._applied.add(message.do)
            self._acknowledge(message, outcome, sentence, block, first_frame)

    def wait(self, seconds: float) -> None:
        """Blocks until a message arrives, at most so many seconds."""
        with self._changed:
            self._changed.wait(seconds)

    def _acknowledge(
        self,
        message: Message,
        outcome: str,
        sentence: str = "",
        block: int | None = None,
        first_frame: int | None = None,
    ) -> None:
        named = {"viewer": message.viewer, "number": message.number}
        where = {"block": block, "first_frame": first_frame}
        self._acknowledged.append({**named, "outcome": outcome, "sentence": sentence, **where})
