"""Messages from viewers to a running stream: put in by any thread, obeyed between two blocks."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("pause", "resume", "stop", "prompt")
LONGEST_PROMPT = 500  # letters
LONGEST_VIEWER = 64  # letters
HIGHEST_NUMBER = 2**53 - 1  # the largest whole number that every browser knows
ACKNOWLEDGED_KEPT = 64
TAKEN_KEPT = 4096  # messages whose repetition is recognised


@dataclass(frozen=True, slots=True)
class Message:
    """One wish of one viewer; prompt and mode belong to the kind `prompt`."""

    viewer: str
    number: int  # counted by the viewer
    do: str  # one of KINDS
    prompt: str = ""
    mode: str = ""


def read_message(body: Any) -> Message:
    """The message of a JSON value; ValueError says in one sentence what is wrong with it."""
    if not isinstance(body, dict):
        raise ValueError(f'Send a JSON object such as {{"do": "pause"}}, not {type(body).__name__}.')
    viewer, number, do = body.get("viewer"), body.get("number"), body.get("do")
    if not isinstance(viewer, str) or not 1 <= len(viewer) <= LONGEST_VIEWER or not viewer.isprintable():
        raise ValueError(f"`viewer` must be a text of 1 to {LONGEST_VIEWER} letters, got {_short(viewer)}.")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= HIGHEST_NUMBER:
        raise ValueError(f"`number` must be a whole number, 1 or more, got {_short(number)}; count them up.")
    if do not in KINDS:
        raise ValueError(f"`do` must be one of {', '.join(KINDS)}, got {_short(do)}.")
    if do != "prompt":
        return Message(viewer, number, do)
    return Message(viewer, number, do, _prompt(body.get("prompt")), _mode(body.get("mode")))


def _prompt(given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"`prompt` must be a text that says what to show, got {_short(given)}.")
    if len(given) > LONGEST_PROMPT:
        raise ValueError(
            f"The prompt has {len(given)} letters, at most {LONGEST_PROMPT} are read; leave some out."
        )
    if "\0" in given or any("\ud800" <= letter <= "\udfff" for letter in given):
        raise ValueError("The prompt holds signs that are no letters of any script; type it again.")
    return " ".join(given.split())


def _mode(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"`mode` must be the name of a switch mode, got {_short(given)}.")
    return given


def _short(value: Any) -> str:
    shown = ascii(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return shown if len(shown) <= 40 else shown[:40] + "..."


class Mailbox:
    """What viewers asked for, and what became of it. Of each kind only the newest message waits."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Message] = OrderedDict()
        self._taken: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._told: deque[dict[str, Any]] = deque(maxlen=ACKNOWLEDGED_KEPT)
        self._obeyed: set[str] = set()
        self._changed = threading.Condition()

    @property
    def pending(self) -> list[dict[str, Any]]:
        """Messages that wait for the next block, in the order in which they came."""
        with self._changed:
            return [asdict(message) for message in self._waiting.values()]

    @property
    def acknowledged(self) -> list[dict[str, Any]]:
        """The newest messages that were settled, and how."""
        with self._changed:
            return list(self._told)

    @property
    def obeyed(self) -> frozenset[str]:
        """The kinds of which a message took effect."""
        with self._changed:
            return frozenset(self._obeyed)

    def knows(self, message: Message) -> bool:
        """Whether this viewer's message of this number was taken before."""
        with self._changed:
            return (message.viewer, message.number) in self._taken

    def put(self, message: Message) -> bool:
        """Takes a message; one that was taken before changes nothing and gives False."""
        key = (message.viewer, message.number)
        with self._changed:
            if key in self._taken:
                return False
            self._taken[key] = None
            if len(self._taken) > TAKEN_KEPT:
                self._taken.popitem(last=False)
            earlier = self._waiting.pop(message.do, None)
            if earlier is not None:
                self._tell(earlier, "replaced")
            self._waiting[message.do] = message
            self._changed.notify_all()
            return True

    def take(self, kinds: Collection[str]) -> list[Message]:
        """The waiting messages of these kinds, in the order in which they came; each is to be settled."""
        with self._changed:
            found = [message for kind, message in self._waiting.items() if kind in kinds]
            for message in found:
                del self._waiting[message.do]
            return found

    def settle(
        self,
        message: Message,
        outcome: str,
        sentence: str = "",
        block: int | None = None,
        first_frame: int | None = None,
    ) -> None:
        """Notes what became of a message: `done` or `refused`; block and frame from where it is seen."""
        with self._changed:
            if outcome == "done":
                self._obeyed.add(message.do)
            self._tell(message, outcome, sentence, block, first_frame)

    def wait(self, seconds: float) -> None:
        """Returns when a message comes in, or after so long."""
        with self._changed:
            self._changed.wait(seconds)

    def _tell(
        self,
        message: Message,
        outcome: str,
        sentence: str = "",
        block: int | None = None,
        first_frame: int | None = None,
    ) -> None:
        told = {"viewer": message.viewer, "number": message.number, "outcome": outcome, "sentence": sentence}
        self._told.append({**told, "block": block, "first_frame": first_frame})
