"""The choice of no memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .kind import Contract, MemoryKind, Source
from .policy import OFF, Off


@dataclass(frozen=True)
class OffKind(MemoryKind):
    """See `policy.Off`."""

    def build(
        self,
        contract: Contract,
        device: torch.device,
        source: Source | None,
        options: Mapping[str, bool | float],
    ) -> Off:
        return OFF


KIND = OffKind("off", "what left the window is forgotten")
