"""The table of memory policies: to add one, write its module and list it here."""

from __future__ import annotations

import reprlib

from . import ema, learned, memrope, off
from .kind import MemoryKind

POLICIES: dict[str, MemoryKind] = {
    kind.name: kind for kind in (learned.KIND, ema.KIND, memrope.KIND, off.KIND)
}


def find_policy(name: str, where: str = "Memory") -> MemoryKind:
    """The kind of this name; ValueError, starting with `where`, with the list of names for any other."""
    if name not in POLICIES:
        raise ValueError(f"{where}: there is no {reprlib.repr(name)}; choose one of {', '.join(POLICIES)}.")
    return POLICIES[name]
