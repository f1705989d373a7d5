"""Predicted milliseconds of a block on cards that are not here, from its work and assumed rates.

Nothing of it was measured on a card. The rates are what published kernels reach, within some 30 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...model_patches.plan.plan import Plan, Request


@dataclass(frozen=True, slots=True)
class CardRates:
    """What a card is assumed to reach in half precision."""

    name: str
    linear_flops: float  # a second, in matrix products
    attention_flops: float  # a second, in fused attention
    vae_flops: float  # a second, in the convolutions of a decoder
    bytes_per_second: float  # of its memory, in passes that read and write in order


CARDS = (
    CardRates("RTX 3090", 60e12, 55e12, 33e12, 0.8e12),
    CardRates("RTX 4090", 145e12, 140e12, 65e12, 0.9e12),
    CardRates("RTX 5090", 185e12, 175e12, 95e12, 1.55e12),
    CardRates("H200", 600e12, 350e12, 220e12, 4e12),
)
HOST_SECONDS = 0.12  # of the CPU for a block, in which the card waits; assumed of ComfyUI


@dataclass(frozen=True, slots=True)
class BlockWork:
    """What a block and its decoding ask of a card."""

    linear_flops: int
    attention_flops: int
    pass_bytes: int  # of everything but products
    decode_flops: int


def block_work(request: Request, plan: Plan, pass_bytes: int) -> BlockWork:
    """FLOPs of the plan, attention apart from other products; pass_bytes: as counted."""
    model, geometry, stream = request.model, request.geometry, request.stream
    queries = request.rows * stream.block_frames * geometry.frame_tokens
    attended = request.cache_frames * geometry.frame_tokens + request.cache_shape.memory_tokens
    keys = attended + request.text_tokens
    # the last layer's part of the call at timestep 0 ends before its attention
    layer_calls = model.num_layers * (len(stream.sigmas) + 1) - 1
    attention = 4 * queries * keys * model.dim * layer_calls
    return BlockWork(plan.block.flops - attention, attention, pass_bytes, plan.decode.flops)


def model_seconds(work: BlockWork, card: CardRates) -> float:
    """Of the transformer's calls for one block."""
    products = work.linear_flops / card.linear_flops + work.attention_flops / card.attention_flops
    return products + work.pass_bytes / card.bytes_per_second


def total_seconds(work: BlockWork, card: CardRates) -> float:
    """Of one block until its pictures are there, the program's own time included."""
    return model_seconds(work, card) + work.decode_flops / card.vae_flops + HOST_SECONDS
