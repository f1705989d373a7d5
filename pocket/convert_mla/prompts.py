"""Encoded prompts of a training's streams. P prompts, B streams, L text tokens, E text_dim."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts as the model's text encoder gives them, and the negative where streams are guided."""

    texts_PLE: Tensor
    negative_1LE: Tensor | None = None

    def draw(self, streams: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """Prompts [B, L, E] at random, of like's dtype and device."""
        rows = torch.randint(len(self.texts_PLE), (streams,), generator=generator)
        return self.texts_PLE[rows].to(like)

    def negative(self, text_BLE: Tensor) -> Tensor | None:
        """The negative [B, L, E] beside these prompts."""
        if self.negative_1LE is None:
            return None
        return self.negative_1LE.to(text_BLE).expand_as(text_BLE).contiguous()
