"""How a way of keeping frames is offered: its words, what it needs, whom it suits, and what makes one.

Nodes, plans, commands and measurements ask the table in `formats` and know no format by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arch.tree import DiTTree
from .cost import CacheCost
from .format import CacheFormat
from .shapes import NO_EXACT, Exact


@dataclass(frozen=True, slots=True)
class Source:
    """A file that the formats of a kind are built from."""

    where: str  # for users: where it comes from, "what ... wrote"
    maker: str  # what makes one
    load: Callable[[Path], Any]  # refuses a file that is none, in a user's words


@dataclass(frozen=True)
class CacheKind(ABC):
    """One way of keeping frames: a row of `formats.FORMATS`."""

    name: str  # at sockets, in commands, tables and snapshots
    label: str  # what it does and for whom, after its name
    needs: str = ""  # what a user must have for it
    rounds: bool = True  # so that frames kept exactly besides lose less
    source: Source | None = None  # what it is built from beside the model

    @abstractmethod
    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if it cannot keep the frames of this model, else None."""

    @abstractmethod
    def cost(self, model: DiTTree) -> CacheCost:
        """Its bytes on this model, before there is a file that it is built from."""

    @abstractmethod
    def build(self, model: DiTTree, exact: Exact = NO_EXACT, source: Any = None) -> CacheFormat:
        """The format for this model, which it can take. source: what `Source.load` gave."""
