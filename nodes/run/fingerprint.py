"""The fingerprint of Stream Video's inputs: with the same one the host gives the last take once more."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_SETTINGS = 256  # settings of nodes whose fingerprint is remembered; of others it is a new one
MOST_FILES = 64  # under one fingerprint


@dataclass(slots=True)
class _Print:
    stamp: str = field(default_factory=lambda: secrets.token_hex(8))
    # of the takes made under it, as they were then
    files: dict[Path, tuple[int, int]] = field(default_factory=dict)
    sessions: dict[Path, str] = field(default_factory=dict)  # of viewers, by the take's first file

    @property
    def holds(self) -> bool:
        return len(self.files) <= MOST_FILES and all(
            _size_and_time(path) == was for path, was in self.files.items()
        )


def _size_and_time(path: Path) -> tuple[int, int] | None:
    """What tells a file that was written to since; None where there is none."""
    try:
        there = path.stat()
    except OSError:
        return None
    return there.st_size, there.st_mtime_ns


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

    def sessions(self, node: str) -> dict[Path, str]:
        """Sessions that made takes of the settings asked about last, by the take's first file."""
        entry = self._prints.get(self._current[node])
        return dict(entry.sessions) if entry else {}

    def note(self, node: str, files: Sequence[Path], session: str, *, whole: bool) -> None:
        """A node's take is over and lies in these files.

        session: of viewers, which made it. whole: it is as planned, and no viewer changed it.
        """
        key = self._current.get(node)
        if key not in self._prints:
            return
        if whole:
            self._prints[key].files |= {path: there for path in files if (there := _size_and_time(path))}
            self._prints[key].sessions[files[0]] = session
        else:
            del self._prints[key]


FINGERPRINTS = Fingerprints()
