"""A cache format as a choice for users: label, requirements, models it fits, and how to build it.

Nodes, plans, commands and benchmarks use the table in `formats` and know no format by name.
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

    where: str  # for users: where the file comes from, "what ... wrote"
    maker: str  # the node or command that writes one
    load: Callable[[Path], Any]  # ValueError for any other file


@dataclass(frozen=True)
class CacheKind(ABC):
    """One cache format: a row of `formats.FORMATS`."""

    name: str  # at sockets, in commands, tables and snapshots
    label: str  # what it does and for which models, shown after its name
    needs: str = ""  # what a user must have to use it
    rounds: bool = True  # whether it is lossy, so that exact frames besides reduce the error
    source: Source | None = None  # a file it is built from besides the model

    @abstractmethod
    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if it cannot store frames of this model, else None."""

    @abstractmethod
    def cost(self, model: DiTTree) -> CacheCost:
        """Its expected cost on this model, without the file of `source`."""

    @abstractmethod
    def build(self, model: DiTTree, exact: Exact = NO_EXACT, source: Any = None) -> CacheFormat:
        """The format for a model that `why_not` accepts. source: the return value of `Source.load`."""
