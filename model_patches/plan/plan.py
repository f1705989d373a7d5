"""Memory, disk and time that a stream needs, computed from sizes alone.

Every figure is a formula over the model's sizes; docs/plan.md lists them with how each is verified. Bytes are
bytes, times are seconds, rates are per second. A second set of keys and values for guidance counts as rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..arch.wan import TEXT_TOKENS, WanConfig
from ..attention.positions import joint
from ..cache.cost import DENSE_COST, CacheCost, dense_layer_bytes
from ..cache.shapes import CacheShape
from ..geometry import Geometry, blocks_for
from ..memory.cost import FREE, MemoryCost
from ..stream.config import StreamConfig
from ..vae.cost import WAN_VAE, DecoderCost
from ..vae.decoder import MAX_LATENTS
from .cost import (
    CallSizes,
    Work,
    cache_write_work,
    embed_time_work,
    forward_work,
    gathering_bytes,
    live_bytes,
    parameters,
    text_work,
)
from .probe import Device

QUEUED_CHUNKS = 6  # in the decoder, two in writer.video's queue, in the encoder, two not yet on disk
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Request:
    """Sizes of a stream to plan; no weights. ValueError for a size that is not above 0."""

    model: WanConfig
    stream: StreamConfig
    fps: float  # pictures per second
    seconds: float | None = None  # planned length; None: endless, disk is reported per hour
    text_tokens: int = TEXT_TOKENS  # of the encoded prompt
    decoder: DecoderCost = WAN_VAE
    vae_dtype: torch.dtype = torch.bfloat16
    cache: CacheCost = DENSE_COST
    bits_per_pixel: float = 0.1  # of the video file; an assumption, content decides
    weights_bytes: int | None = None  # of the transformer as stored; None: all in the stream's dtype
    piece_latents: int = MAX_LATENTS  # most latents in one call of the decoder
    memory: MemoryCost = FREE
    kernels: bool = False  # Triton kernels run: less memory traffic

    def __post_init__(self) -> None:
        for name in ("fps", "text_tokens", "bits_per_pixel", "piece_latents"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Plan: {name} must be above 0, got {getattr(self, name)!r}.")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(
                f"Plan: seconds must be above 0, or None for a stream without end, got {self.seconds!r}."
            )
        if self.seconds is None and self.stream.positions.capacity_frames is None:
            raise ValueError(
                f"Plan: preset {self.stream.positions.name} keeps every frame, so a stream without end needs "
                f"endless memory; give a length, or take preset {self.stream.positions.endless or 'pocket'}."
            )

    @property
    def geometry(self) -> Geometry:
        """Sizes of picture and latents."""
        return self.stream.geometry

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height of the video's pictures in pixels."""
        return self.geometry.picture_size(self.decoder.upscale)

    @property
    def rows(self) -> int:
        """Batch rows of a call."""
        return 2 if self.stream.guided else 1

    @property
    def cache_shape(self) -> CacheShape:
        """Sizes of the cache."""
        model, geometry = self.model, self.geometry
        return CacheShape(
            model.num_layers,
            self.rows,
            geometry.grid_height,
            geometry.grid_width,
            model.num_heads,
            model.head_dim,
            memory_tokens=self.memory.tokens,
        )

    @property
    def cache_frames(self) -> int:
        """Capacity of the cache in latent frames: the preset's, or the whole planned length."""
        capacity = self.stream.positions.capacity_frames
        return self.latent_frames if capacity is None else capacity

    @property
    def latent_frames(self) -> int:
        """Latent frames of the whole planned length."""
        assert self.seconds is not None
        pictures = math.ceil(self.seconds * self.fps)
        return self.stream.block_frames * blocks_for(self.geometry, self.stream.block_frames, pictures)


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes by purpose, and the work of a block. "Device" is where the model lies: VRAM, or RAM on a CPU."""

    weights_bytes: int  # transformer
    vae_weights_bytes: int  # encoder and decoder
    cache_bytes: int  # cached keys and values
    workspace_bytes: int  # of the cache, shared by all layers
    text_bytes: int  # the prompt, and its keys and values
    memory_bytes: int  # the memory policy's, such as an encoder, and its state
    buffer_bytes: int  # layer buffers of the decoder
    activation_bytes: int  # peak of one call of the transformer
    decode_bytes: int  # peak of one piece of the decoder
    snapshot_bytes: int  # one saved state, at most
    chunk_bytes: int  # pictures of one chunk, uint8
    video_bytes_per_hour: int
    block: Work  # a block once the window is full
    first_block: Work  # reading the prompt, and the first block
    decode: Work  # a chunk
    chunk_seconds: float  # of video in a chunk

    @property
    def resident_bytes(self) -> int:
        """Bytes on the device all the time."""
        return (
            self.weights_bytes
            + self.vae_weights_bytes
            + self.cache_bytes
            + self.workspace_bytes
            + self.text_bytes
            + self.memory_bytes
            + self.buffer_bytes
        )

    @property
    def device_bytes(self) -> int:
        """Peak bytes on the device: transformer and decoder run one after the other."""
        return self.resident_bytes + max(self.activation_bytes, self.decode_bytes)

    @property
    def overlap_bytes(self) -> int:
        """Peak bytes on the device where a block is decoded while the next one is made."""
        return self.resident_bytes + self.activation_bytes + self.decode_bytes

    @property
    def ram_bytes(self) -> int:
        """Bytes of RAM for queued pictures and for a snapshot during its save, the model's not counted."""
        return QUEUED_CHUNKS * self.chunk_bytes + self.snapshot_bytes

    def disk_bytes(self, seconds: float) -> int:
        """Peak bytes on disk for so many seconds of video: its parts and the joined file, and two snapshots
        while one replaces the other."""
        return round(2 * self.video_bytes_per_hour * seconds / SECONDS_PER_HOUR) + 2 * self.snapshot_bytes

    def seconds_per_chunk(self, device: Device) -> float:
        """Seconds to generate one chunk; encoding runs in parallel and is not counted."""
        rates = device.matmul_flops, device.bytes_per_second
        return self.block.seconds(*rates) + self.decode.seconds(*rates)

    def seconds_to_first_chunk(self, device: Device) -> float:
        """Seconds from the encoded prompt to the first pictures, models loaded; the decoder counts as for a
        later chunk, which has a few pictures more."""
        rates = device.matmul_flops, device.bytes_per_second
        return self.first_block.seconds(*rates) + self.decode.seconds(*rates)


def plan_stream(request: Request) -> Plan:
    """All figures of a request."""
    stream, geometry, dtype = request.stream, request.geometry, request.stream.dtype
    shape, frames, model = request.cache_shape, request.cache_frames, request.model
    positions = stream.positions
    full = _call(request, frames - (positions.sink_frames if positions.sink_within else 0))
    places, piece = (
        geometry.latent_width * geometry.latent_height,
        min(stream.block_frames, request.piece_latents),
    )
    decoder, vae_size = request.decoder, request.vae_dtype.itemsize
    cache_bytes = request.cache.allocated_bytes(shape, frames, dtype)
    buffer_bytes = decoder.buffers(places) * vae_size
    pixels = math.prod(request.picture_size)
    # a snapshot leaves out the next block's slots, which are free between blocks
    free_frames = 0 if stream.positions.capacity_frames is None else stream.block_frames
    saved_bytes = request.cache.snapshot_bytes(shape, frames - free_frames, dtype)
    # the decoder's past is made from them again
    made = stream.kept_frames if request.seconds is None else min(stream.kept_frames, request.latent_frames)
    newest = math.prod(geometry.latent_shape(made + stream.frames_under_way))
    states = request.memory.snapshot_bytes(shape, dtype)
    tail_bytes = newest * stream.latent_dtype.itemsize
    first = text_work(model, request.rows * request.text_tokens, dtype)
    return Plan(
        weights_bytes=request.weights_bytes or parameters(model) * dtype.itemsize,
        vae_weights_bytes=decoder.parameters * vae_size,
        cache_bytes=cache_bytes,
        workspace_bytes=request.cache.workspace_bytes(shape, frames, dtype),
        text_bytes=_text_bytes(request),
        memory_bytes=request.memory.device_bytes(shape, dtype),
        buffer_bytes=buffer_bytes,
        activation_bytes=_live_bytes(request, full),
        decode_bytes=decoder.peak(piece, places) * vae_size,
        snapshot_bytes=saved_bytes + _prompt_bytes(request) + tail_bytes + states,
        chunk_bytes=geometry.time_stride * stream.block_frames * pixels * 3,
        video_bytes_per_hour=round(request.fps * SECONDS_PER_HOUR * pixels * request.bits_per_pixel / 8),
        block=_block_work(request, _noisy_calls(request), full),
        first_block=first + _first_work(request),
        decode=_decode_work(request, places),
        chunk_seconds=geometry.time_stride * stream.block_frames / request.fps,
    )


def _live_bytes(request: Request, full: CallSizes) -> int:
    """Peak bytes of the largest call."""
    if not request.stream.rolling:
        return live_bytes(request.model, full)
    (call,) = _noisy_calls(request)
    return max(
        live_bytes(request.model, call), *(gathering_bytes(request.model, each) for each in (call, full))
    )


def _noisy_calls(request: Request) -> list[CallSizes]:
    """Of a block once the window is full: one a noise level, or one over all blocks that are under way."""
    stream = request.stream
    if not stream.rolling:
        return [_call(request, request.cache_frames)] * len(stream.sigmas)
    seen = joint(stream.positions, stream.joint_frames).capacity_frames
    assert seen is not None
    return [_call(request, seen, stream.joint_frames)]


def _first_work(request: Request) -> Work:
    """The first block: where several are denoised together, calls over one, over two, and so on."""
    stream, frames = request.stream, request.stream.block_frames
    clean = _call(request, frames)
    counts = range(1, len(stream.sigmas) + 1) if stream.rolling else [1] * len(stream.levels(0))
    noisy = [_call(request, count * frames, count * frames) for count in counts]
    return _block_work(request, noisy, clean)


def _call(request: Request, attended_frames: int, query_frames: int | None = None) -> CallSizes:
    """query_frames: None for a block's."""
    tokens, stream = request.geometry.frame_tokens, request.stream
    query_tokens = (query_frames or stream.block_frames) * tokens
    attended = attended_frames * tokens + request.cache_shape.memory_tokens
    sizes = (request.rows, query_tokens, attended, request.text_tokens)
    return CallSizes(*sizes, stream.dtype, request.kernels)


def _block_work(request: Request, noisy: Sequence[CallSizes], clean: CallSizes) -> Work:
    """The noisy calls and one at timestep 0 (Self-Forcing, arXiv 2506.08009, algorithm 2)."""
    levels = len(request.stream.sigmas) if request.stream.rolling else len(noisy)
    work = embed_time_work(request.model, levels + 1)
    for call in noisy:
        work += forward_work(request.model, call) + _read_work(request, call)
    return work + cache_write_work(request.model, clean) + _read_work(request, clean)


def _read_work(request: Request, call: CallSizes) -> Work:
    """Work of one call to decode a lossy cache: products, codes read, keys and values written."""
    cache, shape = request.cache, request.cache_shape
    tokens = call.rows * (call.attended_tokens - call.query_tokens)
    flops = sum(cache.read_flops(shape, layer) for layer in range(shape.layers))
    if not flops:
        return Work()
    token_bytes = cache.token_bytes(shape, call.dtype) + dense_layer_bytes(shape, 0, call.dtype)
    return Work(tokens * flops, pass_bytes=round(tokens * shape.layers * token_bytes))


def _decode_work(request: Request, places: int) -> Work:
    """A chunk in pieces of at most piece_latents."""
    whole, rest = divmod(request.stream.block_frames, request.piece_latents)
    decoder, size = request.decoder, request.vae_dtype.itemsize
    total = Work()
    for latents in [request.piece_latents] * whole + [rest] * bool(rest):
        weights, traffic = decoder.weight_reads(latents) * size, decoder.traffic(latents, places) * size
        total += Work(decoder.flops(latents, places), weights, traffic)
    return total


def _prompt_bytes(request: Request) -> int:
    """Bytes of the encoded texts, which a snapshot stores without their keys and values."""
    return request.rows * request.text_tokens * request.model.text_dim * request.stream.dtype.itemsize


def _text_bytes(request: Request) -> int:
    model = request.model
    keys_values = 2 * model.num_layers * model.dim
    key_value_bytes = request.rows * request.text_tokens * keys_values * request.stream.dtype.itemsize
    return _prompt_bytes(request) + key_value_bytes
