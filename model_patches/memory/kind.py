"""A memory policy as a choice for users: label, requirements, models it fits, and how to build it.

Nodes, plans, commands and benchmarks use the table in `policies` and know no policy by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ..arch.tree import DiTTree
from ..arch.wan import WanModel
from ..attention.positions import PositionPreset
from ..checkpoints.lora import Lora
from ..geometry import Geometry
from .cost import MemoryCost
from .policy import MemoryPolicy


class Contract(Protocol):
    """The parts of a stream's contract that a memory uses."""

    @property
    def geometry(self) -> Geometry:
        """Picture size."""
        ...

    @property
    def positions(self) -> PositionPreset:
        """Sink, window and ids of the memory."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The model's compute dtype."""
        ...


class Source(Protocol):
    """A loaded memory file; its text is for a log."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def trained(self) -> str:
        """A description of its training."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What else the file says of itself."""
        ...

    @property
    def lora(self) -> Lora | None:
        """The LoRA for the model's weights."""
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
    """One memory policy: a row of `policies.POLICIES`."""

    name: str  # at sockets, in commands, tables and snapshots
    label: str  # what it does, shown after its name
    needs: str = ""  # what a user must have to use it
    files: str = ""  # files it can be built from; "": none
    options: tuple[Option, ...] = ()

    def why_not(self, model: DiTTree, model_memory: str) -> str | None:
        """A sentence if it cannot be used with this model, else None.

        model_memory: fingerprint of the memory that the model's weights were trained with; "": none.
        """
        return None

    def load(
        self, path: Path, model: WanModel, model_memory: str, dtype: torch.dtype | None = None
    ) -> Source:
        """The memory of a file for this model, or any module tree with Wan's names.

        dtype: None for the file's. Raises ValueError for an incomplete file or one of another model.
        """
        raise ValueError(f"Memory {self.name}: it uses no file, got {path}; remove the file.")

    def preset(self, name: str, source: Source | None) -> str:
        """The name of its position preset on a model with preset `name`."""
        return name

    def cost(
        self, contract: Contract, source: Source | None, options: Mapping[str, bool | float]
    ) -> MemoryCost:
        """Its cost in such a stream; options as in `build`."""
        return MemoryCost()

    @abstractmethod
    def build(
        self,
        contract: Contract,
        device: torch.device,
        source: Source | None,
        options: Mapping[str, bool | float],
    ) -> MemoryPolicy:
        """The policy for such a stream; ValueError for positions it cannot be used with.

        options: values by name; defaults for the others.
        """

    def option(self, name: str, options: Mapping[str, bool | float]) -> bool | float:
        """The option's value, or its default."""
        return options.get(name, next(each.default for each in self.options if each.name == name))
