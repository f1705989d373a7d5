"""What a cache format costs: bytes per token and FLOPs per read, for a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .shapes import NO_EXACT, CacheShape, Exact

SCALE_BYTES = 2  # of a group of codes, and of a key's 1/rms: float16


@dataclass(frozen=True, slots=True)
class CacheCost:
    """Bytes and FLOPs of one cache format."""

    name: str
    # (shape, layer, compute dtype) -> bytes per token and batch row in that layer, scales included
    layer_bytes: Callable[[CacheShape, int, torch.dtype], int]
    # (shape, latent frames, compute dtype) -> bytes besides the buffers, once for all layers
    workspace_bytes: Callable[[CacheShape, int, torch.dtype], int]
    # (shape, layer) -> FLOPs to decode the keys and values of one token
    read_flops: Callable[[CacheShape, int], int] = lambda shape, layer: 0
    exact: Exact = NO_EXACT
    lossless: bool = False  # whether every frame is stored without rounding

    def allocated_bytes(self, shape: CacheShape, frames: int, dtype: torch.dtype) -> int:
        """Bytes allocated for so many latent frames in all layers and rows, exact frames besides."""
        return self._bytes(shape, frames, self.exact.slots, dtype)

    def snapshot_bytes(self, shape: CacheShape, frames: int, dtype: torch.dtype) -> int:
        """Bytes of so many latent frames in a snapshot."""
        exact = min(frames, self.exact.sink + self.exact.newest)
        return self._bytes(shape, frames, exact, dtype)

    def token_bytes(self, shape: CacheShape, dtype: torch.dtype) -> float:
        """Bytes per token, layer and batch row, on average over the layers; exact frames are not counted."""
        return sum(self.layer_bytes(shape, layer, dtype) for layer in range(shape.layers)) / shape.layers

    def _bytes(self, shape: CacheShape, frames: int, exact: int, dtype: torch.dtype) -> int:
        tokens = shape.frame_tokens * shape.rows
        coded = sum(self.layer_bytes(shape, layer, dtype) for layer in range(shape.layers))
        return tokens * (frames * coded + exact * shape.layers * dense_layer_bytes(shape, 0, dtype))


def coded_cost(
    name: str,
    layer_bytes: Callable[[CacheShape, int, torch.dtype], int],
    exact: Exact,
    weight_bytes: Callable[[CacheShape, torch.dtype], int] = lambda shape, dtype: 0,
    read_flops: Callable[[CacheShape, int], int] = lambda shape, layer: 0,
    *,
    lossless: bool = False,
) -> CacheCost:
    """The cost of a `coded.CodedStore`: keys and values of one layer in the workspace.

    weight_bytes: (shape, compute dtype) -> bytes of the codecs' weights, such as projections.
    """

    def workspace_bytes(shape: CacheShape, frames: int, dtype: torch.dtype) -> int:
        tokens = frames * shape.frame_tokens + shape.memory_tokens
        keys_and_values = shape.rows * tokens * dense_layer_bytes(shape, 0, dtype)
        return keys_and_values + rotation_table_bytes(shape, frames, dtype) + weight_bytes(shape, dtype)

    return CacheCost(name, layer_bytes, workspace_bytes, read_flops, exact, lossless)


def dense_layer_bytes(shape: CacheShape, layer: int, dtype: torch.dtype) -> int:
    """A key and a value in all heads: 6144 for Wan 1.3B in bfloat16 (VideoMLA, arXiv 2605.30351, its dense
    baseline)."""
    return 2 * shape.heads * shape.head_dim * dtype.itemsize


def int8_layer_bytes(shape: CacheShape, group: int) -> int:
    """A byte a channel of key and value, and a scale a group."""
    channels = shape.heads * shape.head_dim
    return 2 * (channels + channels // group * SCALE_BYTES)


def latent_layer_bytes(rank: int, wide: int, group: int) -> int:
    """A byte for each of the first `wide` coordinates, half a byte for the others, scales, and 1/rms."""
    return wide + (rank - wide) // 2 + (rank // group + 1) * SCALE_BYTES


def dense_workspace_bytes(shape: CacheShape, frames: int, dtype: torch.dtype) -> int:
    """Rotated keys of one layer in `dtype`, with a memory its values too, and the rotation table."""
    tokens, buffers = frames * shape.frame_tokens + shape.memory_tokens, 2 if shape.memory_tokens else 1
    workspace = buffers * shape.rows * tokens * shape.heads * shape.head_dim * dtype.itemsize
    return workspace + rotation_table_bytes(shape, frames, dtype)


def rotation_table_bytes(shape: CacheShape, frames: int, dtype: torch.dtype) -> int:
    """(cos, sin) of all slots in float32 or wider."""
    wide = torch.promote_types(dtype, torch.float32)
    return frames * shape.frame_tokens * (shape.head_dim // 2) * 2 * wide.itemsize


DENSE_COST = CacheCost("dense", dense_layer_bytes, dense_workspace_bytes, lossless=True)
