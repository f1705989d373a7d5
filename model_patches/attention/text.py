"""Cross-attention keys and values of a stream's prompt, computed once per prompt.

B batch, R rows of a call (branch by branch, each of B), L text tokens, E text_dim, N heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..arch.parts import embed_text, project_kv
from ..arch.tree import DiTTree


@dataclass(frozen=True, slots=True)
class TextRows:
    """Keys and values of prompts of equal length, which share a call."""

    branches: int  # rows are branches * B
    kv: Tensor  # [layers, 2, R, L, N, D], keys first

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [R, L, N, D] of one layer."""
        keys, values = self.kv[index].unbind(0)
        return keys, values


@dataclass(frozen=True, slots=True)
class TextState:
    """The prompt of a stream; with guidance the negative prompt too."""

    raw: tuple[Tensor, ...]  # text encoder output per branch, [B, L, E]
    groups: tuple[TextRows, ...]  # in the order of the branches

    @property
    def batch(self) -> int:
        """Streams in the batch."""
        return self.raw[0].shape[0]

    @property
    def branches(self) -> int:
        """2 with guidance (prompt, then negative), else 1."""
        return len(self.raw)


@torch.inference_mode()
def read_text(dit: DiTTree, raw: tuple[Tensor, ...]) -> TextState:
    """Cross-attention keys and values of all layers, for each branch of `raw` [B, L, E].

    Branches of equal length share one call.
    """
    together = len({text_BLE.shape[1] for text_BLE in raw}) == 1
    parts = [torch.cat(raw)] if together else list(raw)
    return TextState(raw, tuple(TextRows(len(raw) // len(parts), _kv(dit, text_RLE)) for text_RLE in parts))


def _kv(dit: DiTTree, text_RLE: Tensor) -> Tensor:
    text_RLC = embed_text(dit, text_RLE)
    return torch.stack([torch.stack(project_kv(block.cross_attn, text_RLC)) for block in dit.blocks])
