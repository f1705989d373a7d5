"""Bytes of what a stream remembers with: of a running one, and of a memory at Wan 1.3B's true sizes.

M memory tokens, E evicted tokens, N heads, D head width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from ...model_patches.attention.positions import preset
from ...model_patches.cache.cost import DENSE_COST
from ...model_patches.cache.dense import DenseStore
from ...model_patches.cache.shapes import CacheShape
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.memory.learned import MemoryTokens
from ...model_patches.memory.policy import Memory
from ...model_patches.stream.state import StreamState
from .memory_subjects import WAN

ECHO = preset("echo")
GEOMETRY = Geometry(832, 480)
DTYPE = torch.bfloat16


def state_bytes(state: StreamState) -> dict[str, int]:
    """What a stream holds between two blocks: kept frames, memory tokens, the newest latents."""
    return {
        "cache_bytes": state.cache.bytes,
        "memory_bytes": memory_bytes(state.memory),
        "tail_bytes": state.tail_BCTHW.nbytes,
    }


def memory_bytes(memory: Memory) -> int:
    """Bytes of the tokens that are held; a state that is both is counted once."""
    return sum(tensor.nbytes for tensor in memory.tensors().values())


def whole_size() -> Iterator[tuple[str, int, int]]:
    """(what, bytes by arithmetic, bytes of the tensors that the engine's code makes) at Wan 1.3B, 832x480.

    The tensors are made on the meta device, by the encoder and the cache's store themselves. Arithmetic of
    the state: 3 frames of 30 x 52 tokens of 1536 channels in bfloat16 are the published 14.4 MB, its keys and
    values 28.8 MB (Echo-Infinity, arXiv 2606.04527, its released code).
    """
    tokens = 3 * 30 * 52
    one = tokens * 1536 * 2
    encoder = _encoder()
    k_BEND, v_BEND = torch.empty(2, 1, tokens, WAN.num_heads, WAN.head_dim, dtype=DTYPE, device="meta")
    first = encoder.update(encoder.fresh(1), k_BEND, v_BEND)
    second = encoder.update(first, k_BEND, v_BEND)
    yield "memory_tokens", one, first.nbytes
    yield "keys_and_values_of_a_read", 2 * one, sum(part.nbytes for part in encoder.read(first))
    # the next block's first call still sees the memory before the update
    yield "memory_between_blocks", 2 * one, memory_bytes(MemoryTokens(first, second))
    yield "encoder_weights", 2 * _parameters(1536, tokens), sum(p.nbytes for p in encoder.parameters())
    yield from _cache(tokens)


def _encoder() -> MemoryEncoder:
    sizes = EncoderConfig(
        WAN.dim, WAN.num_heads, ECHO.memory_frames, GEOMETRY.grid_height, GEOMETRY.grid_width
    )
    with torch.device("meta"):
        return MemoryEncoder(sizes).to(DTYPE)


def _parameters(C: int, M: int) -> int:
    """Numbers in an encoder's weights by arithmetic; published at these sizes: 68.57 million."""
    square = C * C + C
    layer = 2 * square + 3 * C + (C * 4 * C + 4 * C) + (4 * C * C + C)
    return M * C + 2 * layer + (2 * square + C) + (2 * C * C + C) + 2 * square


def _cache(M: int) -> Iterator[tuple[str, int, int]]:
    """The window's keys and values, and what a memory adds to the room in which a layer is read."""
    shape = CacheShape(
        WAN.num_layers, 1, GEOMETRY.grid_height, GEOMETRY.grid_width, WAN.num_heads, WAN.head_dim
    )
    frames = ECHO.capacity_frames or 0
    stores = [
        DenseStore(replace(shape, memory_tokens=tokens), frames, DTYPE, torch.device("meta"))
        for tokens in (0, M)
    ]
    kept = 30 * 2 * frames * 30 * 52 * 1536 * 2
    yield "window_dense", kept, stores[0].bytes
    added = [
        DENSE_COST.workspace_bytes(replace(shape, memory_tokens=tokens), frames, DTYPE) for tokens in (0, M)
    ]
    beside = [store.workspace_bytes for store in stores]
    yield "workspace_added_by_a_memory", added[1] - added[0], beside[1] - beside[0]
