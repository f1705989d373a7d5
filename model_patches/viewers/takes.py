"""What the routes of docs/preview.md need of takes on disk, and what a page may ask of one.

The host keeps the takes; viewers know them by ids that cannot be guessed, never by paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .mailbox import Redo, read_redo

MAX_ID = 64  # letters of a node, a workflow or a client
ALL, SNAPSHOTS = "all", "snapshots"
DELETED = (ALL, SNAPSHOTS)  # what of a take can be deleted: video and folder, or the folder alone


@dataclass(frozen=True, slots=True)
class GoOn:
    """How a page wants the next run of one of its nodes to go on with a take."""

    client: str
    workflow: str  # "": the page's graph has no id
    node: str
    redo: Redo


class BusyError(Exception):
    """The take is being written by a run in progress."""


class KnownTakes(Protocol):
    """The takes that a server's viewers may see and go on with. Any thread."""

    def listed(self) -> list[dict[str, Any]]:
        """The takes of docs/preview.md, newest first."""
        ...

    def picture(self, take: str) -> bytes | None:
        """A small JPEG of a take's newest picture, None without one; KeyError for an unknown id."""
        ...

    def timeline(self, take: str) -> str:
        """What a take was directed with, to paste into Prompts over Time; "" where that is not known.

        KeyError for an unknown id.
        """
        ...

    def go_on(self, take: str, wish: GoOn) -> None:
        """Has the next run of the node go on with the take.

        KeyError for an unknown id, ValueError with a sentence where the take cannot be gone on with so, and
        BusyError while it is being made.
        """
        ...

    def delete(self, take: str, what: str) -> None:
        """Deletes of a take what is one of DELETED.

        KeyError for an unknown id, ValueError with a sentence where that cannot be, and BusyError while it is
        being made.
        """
        ...


def read_deletion(body: Any) -> str:
    """Which part of a take is to be deleted; ValueError for another."""
    what = body.get("what") if isinstance(body, dict) else None
    if what not in DELETED:
        raise ValueError(f"`what` must be one of {', '.join(DELETED)}, got {ascii(what)[:40]}.")
    return str(what)


def read_go_on(body: Any) -> GoOn:
    """The wish in a JSON value; ValueError names the wrong field, what it got and what it needs."""
    if not isinstance(body, dict):
        raise ValueError(f'Send a JSON object such as {{"node": "12"}}, not {type(body).__name__}.')
    node, workflow, client = (_name(body, name) for name in ("node", "workflow", "client"))
    if not node:
        raise ValueError("`node` is missing; send the id of the node that is to go on with the take.")
    return GoOn(client, workflow, node, read_redo(body))


def _name(body: dict[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or len(value) > MAX_ID or not (value.isprintable() or not value):
        raise ValueError(f"`{name}` must be a text of at most {MAX_ID} letters, got {ascii(value)[:40]}.")
    return value
