"""The table of ways to remember: to add one, write its module and name it here."""

from __future__ import annotations

from . import ema, learned, off
from .kind import MemoryKind

POLICIES: dict[str, MemoryKind] = {kind.name: kind for kind in (learned.KIND, ema.KIND, off.KIND)}


def find_policy(name: str, where: str = "Memory") -> MemoryKind:
    """The kind of this name; raises ValueError, beginning with `where`, with those there are."""
    if name not in POLICIES:
        raise ValueError(f"{where}: there is no {name!r}; there are {', '.join(POLICIES)}.")
    return POLICIES[name]
