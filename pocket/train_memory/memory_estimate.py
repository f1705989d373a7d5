"""What the training of a memory needs in bytes, estimated before it starts on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.cache.format import call_of
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.plan.cost import parameters
from ...model_patches.plan.ram import free_ram_bytes
from ..convert_mla.memory_estimate import FLOAT, PER_TRAINED, Fused, bytes_for_backward, table
from .lora import Adapted, Adapters
from .memory_context import FrameCache, FrameTokens
from .memory_rollout import BlockInputs, Lesson, MemoryRollout, MemoryStates


@dataclass(frozen=True, slots=True)
class Job:
    """The sizes of a training."""

    config: WanConfig
    encoder: EncoderConfig
    rank: int
    positions: PositionPreset
    geometry: Geometry
    block_frames: int
    batch: int
    text_tokens: int
    dtype: torch.dtype  # of the model, and of products
    blocks: int  # of the longest lesson
    graded: int  # calls of a lesson

    @property
    def capacity(self) -> int:
        """Latent frames of a full window."""
        return self.positions.capacity_frames or self.positions.trained_frames


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by purpose, where the model lies."""

    weights: int
    folded: int  # weights with their low-rank changes, and those weights' gradients
    trained: int  # low-rank changes and encoder: weights, gradients, moments, average
    frames: int  # inputs, keys and values of the frames that the rollout and its graded calls hold
    updates: int  # what the chain of updates keeps for the backward pass
    call: int  # what one graded call keeps, recomputed

    @property
    def device_bytes(self) -> int:
        """All of it."""
        return self.weights + self.folded + self.trained + self.frames + self.updates + self.call

    def __str__(self) -> str:
        rows = [
            (self.weights, "weights"),
            (self.folded, "changed weights and their gradients"),
            (self.trained, "changes and encoder: weights, gradients, moments, average"),
            (self.frames, "inputs, keys and values of kept frames"),
            (self.updates, "kept for gradients by the memory's updates"),
            (self.call, "kept for gradients by one call"),
            (self.device_bytes, "in all on the device"),
        ]
        return table(rows)


def estimate(job: Job) -> MemoryEstimate:
    """Bytes of a training; nothing is allocated."""
    with torch.device("meta"):
        dit = WanModel(job.config).to(job.dtype)
        encoder = MemoryEncoder(job.encoder).to(job.dtype)
    adapters = Adapters(dit, job.rank, float(job.rank))
    adapters.fold()
    changed = sum(layer.layer.weight.numel() for layer in adapters.layers if isinstance(layer, Adapted))
    trained = sum(p.numel() for p in (*adapters.parts(), *encoder.parameters()))
    frame = job.batch * job.geometry.frame_tokens * job.config.dim * job.dtype.itemsize
    # windows of graded calls overlap, but for a block each
    frames = job.capacity + job.graded * job.block_frames
    rollout = MemoryRollout(dit, encoder, job.block_frames, attention=Fused.apply)
    updates = job.blocks - job.capacity // job.block_frames
    return MemoryEstimate(
        weights=parameters(job.config) * job.dtype.itemsize,
        folded=2 * changed * job.dtype.itemsize,
        trained=trained * FLOAT * PER_TRAINED,
        frames=3 * frames * job.config.num_layers * frame,
        updates=updates * _update_bytes(job, encoder),
        call=_call_bytes(job, rollout),
    )


def why_not(needed: MemoryEstimate, device: torch.device) -> str | None:
    """A sentence if the device has less free, else None; also None where that is not known."""
    free = free_ram_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    if free is None or needed.device_bytes <= free:
        return None
    return (
        f"train-memory: it needs {needed.device_bytes / 1e9:.2f} GB on {device} and {free / 1e9:.2f} GB are "
        f"free. Take a smaller --size, --batch, --rank or --blocks, or a larger device."
    )


def _tokens(job: Job, frames: int) -> tuple[int, int, int, int]:
    heads, width = job.config.num_heads, job.config.head_dim
    return job.batch, frames * job.geometry.frame_tokens, heads, width


def _update_bytes(job: Job, encoder: MemoryEncoder) -> int:
    """What one update of the memory keeps."""
    meta = torch.device("meta")
    keys, values = (
        torch.empty(_tokens(job, job.block_frames), dtype=job.dtype, device=meta) for _ in range(2)
    )
    return bytes_for_backward(lambda: encoder.update(encoder.fresh(job.batch), keys, values, Fused.apply))


def _call_bytes(job: Job, rollout: MemoryRollout) -> int:
    """What a graded call over a full window and the memory keeps."""
    meta = torch.device("meta")
    call = call_of(job.positions, job.block_frames * -(-job.capacity // job.block_frames), job.block_frames)
    pair = torch.empty(_tokens(job, 1), dtype=job.dtype, device=meta)
    token = FrameTokens(pair.flatten(2), pair, pair)
    cache = FrameCache({frame: [token] * job.config.num_layers for frame in call.cached})
    inputs = BlockInputs(call, cache, MemoryStates())
    shape = job.geometry.latent_shape(job.block_frames, job.batch)
    noisy = torch.empty(shape, dtype=job.dtype, device=meta)
    text = torch.empty(job.batch, job.text_tokens, job.config.text_dim, dtype=job.dtype, device=meta)
    lesson = Lesson(noisy, noisy, (text,) * (call.new[0] // job.block_frames + 1), (), job.positions)
    state = rollout.encoder.fresh(job.batch)
    folded = [layer.folded for layer in rollout.dit.modules() if isinstance(layer, Adapted)]
    sigma_R = torch.zeros(job.batch, device=meta)
    return bytes_for_backward(lambda: rollout.flow(lesson, inputs, state, noisy, sigma_R), folded)
