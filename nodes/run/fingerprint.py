"""The fingerprint of Stream Video's inputs: with the same one the host gives the last take once more."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_SETTINGS = 256  # settings of nodes whose fingerprint is remembered; of others it is a new one
MOST_FILES = 64  # under one fingerprint


@dataclass(slots=True)
class _Print:
    stamp: str = field(default_factory=lambda: secrets.token_hex(8))
    files: list[Path] = field(default_factory=list)  # of the takes made under it

    @property
    def holds(self) -> bool:
        return len(self.files) <= MOST_FILES and all(path.is_file() for path in self.files)


class Fingerprints:
    """One stamp for every setting of every node; a new one once a take under it cannot stand for the next.

    The host asks before each run with the constants alone: it keys what comes over links itself.
    """

    def __init__(self) -> None:
        self._prints: OrderedDict[tuple[str, str], _Print] = OrderedDict()
        self._current: dict[str, tuple[str, str]] = {}  # by node: the settings of its run in progress

    def stamp(self, node: str, constants: dict[str, Any]) -> str:
        """The stamp for a node with these settings."""
        key = self._current[node] = node, repr(sorted(constants.items()))
        entry = self._prints.pop(key, None)
        self._prints[key] = entry if entry and entry.holds else _Print()
        if len(self._prints) > MOST_SETTINGS:
            self._prints.popitem(last=False)
        return self._prints[key].stamp

    def note(self, node: str, path: Path, *, as_queued: bool) -> None:
        """A node's take is over; as_queued: it is whole, and no viewer changed it."""
        key = self._current.get(node)
        if key not in self._prints:
            return
        if as_queued:
            self._prints[key].files.append(path)
        else:
            del self._prints[key]


FINGERPRINTS = Fingerprints()
