"""What a conversion needs in memory, estimated before it starts by running it on shapes alone.

R rows, L tokens, N heads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...model_patches.arch.mla import MlaModel, MlaSizes
from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.attention.forward import forward
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.cache.cost import DENSE_COST
from ...model_patches.cache.format import call_of
from ...model_patches.cache.shapes import CacheShape
from ...model_patches.geometry import Geometry
from ...model_patches.plan.cost import CallSizes, live_bytes, parameters
from ...model_patches.plan.ram import free_ram_bytes
from .rollout import embed_time, read_text_rows
from .trainable_context import ContextInputs, Grid, TrainableContext

FLOAT = 4  # bytes of a number that is trained, and of each that its training keeps
PER_TRAINED = 5  # weight, gradient, two moments of AdamW, average


@dataclass(frozen=True, slots=True)
class Job:
    """The sizes of a conversion."""

    config: WanConfig
    sizes: MlaSizes
    preset: PositionPreset
    geometry: Geometry
    block_frames: int
    batch: int
    text_tokens: int
    dtype: torch.dtype  # of the dense model, and of products
    whole: bool
    offload: bool
    rollout_rows: int = 0  # of streams that go on beside the clips
    contexts: int = 1  # that both models hold at a time


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by purpose, where the model lies; `saved` goes to RAM where it is offloaded."""

    dense: int
    trained: int  # weights, gradients, moments, average
    inputs: int  # of the frames in both models' contexts
    live: int  # most that a call holds
    saved: int  # for the backward pass
    rollouts: int  # cached frames of the student's streams
    offloaded: bool

    @property
    def device_bytes(self) -> int:
        """All that lies beside the model."""
        saved = 0 if self.offloaded else self.saved
        return self.dense + self.trained + self.inputs + self.live + self.rollouts + saved

    def __str__(self) -> str:
        rows = [
            (self.dense, "dense weights"),
            (self.trained, "trained weights, gradients, moments, average"),
            (self.inputs, "inputs of the kept frames, both models"),
            (self.live, "activations of a call"),
            (self.rollouts, "kept frames of its own streams"),
            (self.saved, "kept for gradients" + (", in RAM" if self.offloaded else "")),
            (self.device_bytes, "in all on the device"),
        ]
        return table(rows)


def table(rows: Sequence[tuple[int, str]]) -> str:
    """A line for each number of bytes and what they are for."""
    return "\n".join(f"{size / 1e9:9.3f} GB  {what}" for size, what in rows)


def estimate(job: Job) -> MemoryEstimate:
    """Bytes of a conversion; nothing is allocated."""
    with torch.device("meta"):
        student = MlaModel(job.config, job.sizes).to(job.dtype)
    new = sum(p.numel() for block in student.blocks for p in block.self_attn.parameters())
    trained = sum(p.numel() for p in student.parameters()) if job.whole else new
    frames = job.preset.capacity_frames or job.preset.trained_frames
    tokens = job.batch * frames * job.geometry.frame_tokens
    call = CallSizes(
        job.batch,
        job.block_frames * job.geometry.frame_tokens,
        frames * job.geometry.frame_tokens,
        job.text_tokens,
        job.dtype,
    )
    return MemoryEstimate(
        parameters(job.config) * job.dtype.itemsize,
        trained * FLOAT * PER_TRAINED,
        2 * job.contexts * tokens * job.config.num_layers * job.config.dim * job.dtype.itemsize,
        live_bytes(job.config, call),
        call_bytes(student, job, frames),
        rollout_bytes(job, frames),
        job.offload,
    )


def rollout_bytes(job: Job, frames: int) -> int:
    """Bytes that the student's streams keep in a dense cache, in the dtype that is trained."""
    config, geometry = job.config, job.geometry
    grid = (geometry.grid_height, geometry.grid_width)
    shape = CacheShape(config.num_layers, job.rollout_rows, *grid, config.num_heads, config.head_dim)
    return DENSE_COST.allocated_bytes(shape, frames, torch.float32)


def why_not(needed: MemoryEstimate, device: torch.device) -> str | None:
    """A sentence if the device has less free, else None; also None where that is not known."""
    on_cpu = device.type == "cpu"
    free = free_ram_bytes() if on_cpu else torch.cuda.mem_get_info(device)[0]
    ram = free_ram_bytes()
    if free is not None and needed.device_bytes > free:
        return (
            f"convert-mla: it needs {needed.device_bytes / 1e9:.2f} GB on {device} and {free / 1e9:.2f} GB "
            f"are free. Take a smaller --batch or --size, --offload, leave --whole out, or a larger device."
        )
    if needed.offloaded and not on_cpu and ram is not None and needed.saved > ram:
        return (
            f"convert-mla: --offload needs {needed.saved / 1e9:.2f} GB of RAM and {ram / 1e9:.2f} GB are "
            f"free; take a smaller --batch or --size."
        )
    return None


def call_bytes(student: WanModel, job: Job, frames: int) -> int:
    """Bytes that a call of the student over a full window keeps for its backward pass."""
    geometry, meta = job.geometry, torch.device("meta")
    start = frames - job.block_frames
    call = call_of(job.preset, start, job.block_frames)
    width = job.config.dim
    inputs = ContextInputs()
    like = torch.empty(job.batch, geometry.frame_tokens, width, dtype=job.dtype, device=meta)
    inputs.frames = {frame: [like] * job.config.num_layers for frame in call.cached}
    grid = Grid(geometry.grid_height, geometry.grid_width, job.config.head_dim, meta)
    context = TrainableContext(student, inputs, call, grid)
    shape = geometry.latent_shape(job.block_frames, job.batch)
    noisy = torch.empty(shape, dtype=job.dtype, device=meta)
    text = torch.empty(job.batch, job.text_tokens, job.config.text_dim, dtype=job.dtype, device=meta)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(job.whole or ".self_attn." in name)

    def call() -> None:
        time = embed_time(student, torch.zeros(job.batch, 1, dtype=torch.float64, device=meta), job.dtype)
        forward(student, noisy, time, read_text_rows(student, text), context, Fused.apply)

    return bytes_for_backward(call)


def bytes_for_backward(call: Callable[[], object], beside: Collection[Tensor] = ()) -> int:
    """Bytes that a call keeps for its backward pass, weights and the tensors `beside` left out."""
    left_out = {id(tensor) for tensor in beside}
    stores: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(tensor) not in left_out and not isinstance(tensor, torch.nn.Parameter):
            stores[storage._cdata] = (tensor, storage.nbytes())  # kept alive, so that no number comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = call()
    del result
    return sum(size for _, size in stores.values())


class Fused(torch.autograd.Function):
    """Attention as fused kernels keep it for their gradient: its inputs, its result, one sum a row."""

    @staticmethod
    def forward(ctx: Any, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        out = torch.empty_like(q_BLND)
        sums = torch.empty(q_BLND.shape[:3], dtype=torch.float32, device=q_BLND.device)
        ctx.save_for_backward(q_BLND, k_BLND, v_BLND, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError("shapes only")
