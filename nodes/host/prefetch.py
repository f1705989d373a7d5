"""Weights that the host keeps in RAM, fetched a layer ahead of their use.

The host's dynamic VRAM copies each matrix when it is called for. Some of its models have it fetch a whole
block instead, while the block before is computed; its Wan model does not, and this does it for a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...model_patches.arch.tree import BlockTree

try:
    from comfy import model_prefetch
except ImportError:  # a ComfyUI before it had that
    model_prefetch = None


class _Fetched(Sequence[BlockTree]):
    """A model's blocks, to be asked for once each and in order; the one asked for is fetched."""

    def __init__(self, blocks: Sequence[BlockTree], queue: list[Any], device: torch.device) -> None:
        self._blocks, self._queue, self._device = blocks, queue, device

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, layer: int) -> BlockTree:
        block = self._blocks[layer]
        model_prefetch.prefetch_queue_pop(self._queue, self._device, block)
        return block


@contextmanager
def fetched(
    blocks: Sequence[BlockTree], device: torch.device, options: dict[str, Any]
) -> Iterator[Sequence[BlockTree]]:
    """The blocks of one call, each fetched when the call comes to it; as they are where the host has no such
    thing, or keeps the weights on the card.

    options: the host's transformer_options of the call.
    """
    queue = None
    if model_prefetch is not None and options.get("prefetch_dynamic_vbars"):
        queue = model_prefetch.make_prefetch_queue([_used(block) for block in blocks], device, options)
    if queue is None:
        yield blocks
        return
    try:
        yield _Fetched(blocks, queue, device)
        model_prefetch.prefetch_queue_pop(queue, device, None)
    finally:
        # also of a call that ended early: what it had fetched is let go
        model_prefetch.cleanup_prefetch_queues()


def _used(block: Any) -> nn.ModuleList:
    """The layers of a block that a call runs: the text's keys and values are made once per prompt."""
    cross = block.cross_attn
    return nn.ModuleList([block.self_attn, cross.q, cross.norm_q, cross.o, block.norm3, block.ffn])
