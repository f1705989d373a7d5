"""The names the engine asks of a model: any module tree that has them can be streamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

Layer = Callable[[Tensor], Tensor]


class AttentionTree(Protocol):
    """Projections of one attention and the norms of its queries and keys."""

    num_heads: int
    q: Layer
    k: Layer
    v: Layer
    o: Layer
    norm_q: Layer
    norm_k: Layer


class BlockTree(Protocol):
    """One transformer block."""

    norm1: Layer
    self_attn: AttentionTree
    norm3: Layer
    cross_attn: AttentionTree
    norm2: Layer
    ffn: Layer
    modulation: Tensor


class HeadTree(Protocol):
    """The last layers."""

    norm: Layer
    head: Layer
    modulation: Tensor


class DiTTree(Protocol):
    """A Wan 2.1 model by its names."""

    num_heads: int
    freq_dim: int
    text_dim: int
    patch_size: tuple[int, int, int]
    patch_embedding: Layer
    text_embedding: Layer
    time_embedding: Layer
    time_projection: Layer
    blocks: Sequence[BlockTree]
    head: HeadTree


def width_of(model: DiTTree) -> int:
    """Channels of the model: all of its heads."""
    return model.head.modulation.shape[-1]
