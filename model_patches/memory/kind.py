"""How a way of remembering is offered: its words, what it needs, whom it suits, and what makes one.

Nodes, plans, commands and measurements ask the table in `policies` and know no policy by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ..arch.tree import DiTTree
from ..arch.wan import WanModel
from ..attention.positions import PositionPreset
from ..checkpoints.lora import Lora
from ..geometry import Geometry
from .cost import MemoryCost
from .policy import MemoryPolicy


class Contract(Protocol):
    """What a memory asks of a stream's contract."""

    @property
    def geometry(self) -> Geometry:
        """The picture."""
        ...

    @property
    def positions(self) -> PositionPreset:
        """Sink, window and the memory's places."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's computing."""
        ...


class Source(Protocol):
    """A memory's file as it was read; its text is for a log."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def trained(self) -> str:
        """What its training was."""
        ...

    @property
    def lora(self) -> Lora | None:
        """What the model's weights are to be changed by."""
        ...


@dataclass(frozen=True, slots=True)
class Option:
    """A switch or number of one policy that users may set; the name is a socket's."""

    name: str
    default: bool | float
    help: str
    least: float = 0.0
    most: float = 1.0
    step: float = 0.01


@dataclass(frozen=True)
class MemoryKind(ABC):
    """One way of remembering: a row of `policies.POLICIES`."""

    name: str  # at sockets, in commands, tables and snapshots
    label: str  # what it does, after its name
    needs: str = ""  # what a user must have for it
    files: str = ""  # which files it is built from; "": none
    options: tuple[Option, ...] = ()

    def why_not(self, model: DiTTree, model_memory: str) -> str | None:
        """A sentence if it does not go with this model, else None.

        model_memory: fingerprint of the memory that the model's own weights were trained with; "": none.
        """
        return None

    def load(
        self, path: Path, model: WanModel, model_memory: str, dtype: torch.dtype | None = None
    ) -> Source:
        """The memory of a file for this model, or any module tree under Wan's names.

        dtype: None for the file's. Raises ValueError where the file is not whole, or of another model.
        """
        raise ValueError(f"Memory {self.name}: it is made from no file, got {path}; leave the file out.")

    def preset(self, name: str, source: Source | None) -> str:
        """The name of the positions it runs with, where the model's are `name`."""
        return name

    def cost(self, contract: Contract, source: Source | None) -> MemoryCost:
        """What it takes in such a stream."""
        return MemoryCost()

    @abstractmethod
    def build(
        self,
        contract: Contract,
        device: torch.device,
        source: Source | None,
        options: Mapping[str, bool | float],
    ) -> MemoryPolicy:
        """The policy of such a stream; raises ValueError for positions it does not go with.

        options: by name; those that are not there are as usual.
        """

    def option(self, name: str, options: Mapping[str, bool | float]) -> bool | float:
        """An option's value."""
        return options.get(name, next(each.default for each in self.options if each.name == name))
