"""Cost of the transformer, by formulas from its sizes: parameters, FLOPs, memory traffic, peak bytes.

L query tokens of a call (batch rows included), K tokens they attend to per row, M text tokens, C channels, F
feed-forward width. One multiplication with its addition is 2 FLOPs. The formulas follow `attention.forward`
operation by operation, as it runs without a compiler that joins operations; memory traffic with kernels where
they run, peak bytes always without: a kernel that fails leaves its work to torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from ..arch.wan import WanConfig


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs and memory traffic."""

    flops: int = 0  # of matrix products, convolutions and attention
    operand_bytes: int = 0  # read and written by those, weights included
    pass_bytes: int = 0  # read and written by all other operations

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)))

    def __mul__(self, times: int) -> Work:
        return Work(*(getattr(self, f.name) * times for f in fields(Work)))

    def seconds(self, matmul_flops: float, bytes_per_second: float) -> float:
        """Seconds at these rates: products take the longer of both times (Williams et al. 2009, roofline),
        everything else that of its memory traffic."""
        products = max(self.flops / matmul_flops, self.operand_bytes / bytes_per_second)
        return products + self.pass_bytes / bytes_per_second


@dataclass(frozen=True, slots=True)
class CallSizes:
    """The sizes of one call of the model."""

    rows: int  # of the batch: streams, times 2 with guidance
    query_tokens: int  # of one row
    attended_tokens: int  # of one row, the call's own included
    text_tokens: int
    dtype: torch.dtype
    kernels: bool = False  # Triton kernels run: norms with what is around them, and rotations, in one pass


def parameters(model: WanConfig) -> int:
    """Numbers in all weights of a model of these sizes (Wan 2.1, arXiv 2503.20314, section 4.2)."""
    dim, patch = model.dim, math.prod(model.patch)
    attention = 4 * (dim * dim + dim) + 2 * dim
    ffn = 2 * dim * model.ffn_dim + model.ffn_dim + dim
    block = 2 * attention + ffn + 2 * dim + 6 * dim
    embeddings = (
        dim * patch * model.in_channels
        + dim
        + model.text_dim * dim
        + dim
        + dim * dim
        + dim
        + model.freq_dim * dim
        + dim
        + dim * dim
        + dim
        + 6 * dim * dim
        + 6 * dim
    )
    head = dim * patch * model.out_channels + patch * model.out_channels + 2 * dim
    return model.num_layers * block + embeddings + head


def forward_work(model: WanConfig, call: CallSizes) -> Work:
    """One denoising call, `attention.forward.forward`."""
    tokens, patch = call.rows * call.query_tokens, math.prod(model.patch)
    x = tokens * model.dim * call.dtype.itemsize
    head = _linear(tokens, model.dim, patch * model.out_channels, call.dtype)
    # the head's norm and modulation; as one pass it adds the last layer's update, and the first layer's none
    norm = Work(pass_bytes=(2 if call.kernels else 4) * x)
    return _patchify(model, call) + layer_work(model, call) * model.num_layers + head + norm


def cache_write_work(model: WanConfig, call: CallSizes) -> Work:
    """The call at timestep 0 that fills the cache; the last layer ends after its keys and values."""
    tokens, dim = call.rows * call.query_tokens, model.dim
    x = tokens * dim * call.dtype.itemsize
    # norm and modulation as in the head, the norm of k, keys and values into the cache
    passes = (2 if call.kernels else 4) + 2 + 4
    last = _linear(tokens, dim, dim, call.dtype) * 2 + Work(pass_bytes=passes * x)
    return _patchify(model, call) + layer_work(model, call, keeps=True) * (model.num_layers - 1) + last


def layer_work(model: WanConfig, call: CallSizes, keeps: bool = False) -> Work:
    """One block: q, k, v, o and attention over K tokens, q, o and attention over the text, feed-forward.

    keeps: its keys are for later blocks.
    """
    dim, dtype = model.dim, call.dtype
    tokens, keys = call.rows * call.query_tokens, call.rows * call.attended_tokens
    text = call.rows * call.text_tokens
    x, cached = tokens * dim * dtype.itemsize, keys * dim * dtype.itemsize
    square = _linear(tokens, dim, dim, dtype)
    attention = Work(
        4 * tokens * (call.attended_tokens + call.text_tokens) * dim,
        4 * x + 2 * cached + 2 * text * dim * dtype.itemsize + 2 * tokens * model.num_heads * 4,
    )
    wide, out = _linear(tokens, dim, model.ffn_dim, dtype), _linear(tokens, model.ffn_dim, dim, dtype)
    # three norms 6, two modulations 4, three norms of q and k 6 (as one operation each, which they are on a
    # GPU), keys and values into the cache 4, three residuals 9; with kernels norm1, norm2, what is added
    # before and what modulates after them are 4 each instead of 7, q's norm is part of its rotation, and so
    # is k's where it is not kept, whose way into the cache is spared then
    tables = (call.query_tokens + call.attended_tokens) * model.head_dim * _compute_dtype(dtype).itemsize
    count = 29 if not call.kernels else 21 if keeps else 17
    passes = count * x + _rotate_bytes(x + cached, call) + tables
    gelu = 2 * tokens * model.ffn_dim * dtype.itemsize
    return square * 6 + attention + wide + out + Work(pass_bytes=passes + gelu)


def embed_time_work(model: WanConfig, timesteps: int) -> Work:
    """Time embeddings of a block's calls, in one batch; a few kilobytes of activations are left out."""
    weights = model.freq_dim * model.dim + 7 * model.dim * model.dim
    return Work(2 * timesteps * weights)


def text_work(model: WanConfig, tokens: int, dtype: torch.dtype) -> Work:
    """The prompt's keys and values of all layers; tokens: of the encoded text, all rows."""
    dim = model.dim
    embed = _linear(tokens, model.text_dim, dim, dtype) + _linear(tokens, dim, dim, dtype)
    return embed + _linear(tokens, dim, dim, dtype) * (2 * model.num_layers)


def live_bytes(model: WanConfig, call: CallSizes) -> int:
    """Peak bytes of one call, without its inputs, weights and cache.

    The tokens and the modulated tokens with the largest of: q before and after its norm and what rotating it
    needs (wider than q where that is half precision); rotated q, k, v and what rotating the keys needs;
    rotated q, k, v, what the norm of k makes of it and one float32 per token; or twice the feed-forward's
    width. The timestep's six vectors of the layer are there all the time.
    """
    size, tokens = call.dtype.itemsize, call.rows * call.query_tokens
    x = tokens * model.dim * size
    cached = call.rows * call.attended_tokens * model.dim * size
    hidden = tokens * model.ffn_dim * size
    widening = _compute_dtype(call.dtype).itemsize // size
    rotated_q = x if widening == 1 else (2 * widening + 1) * x
    rotated_keys = 0 if widening == 1 else 2 * widening * cached
    vectors = 6 * model.dim * size
    return vectors + max(4 * x + rotated_q, 5 * x + rotated_keys, 7 * x + 4 * tokens, 2 * x + 2 * hidden)


def gathering_bytes(model: WanConfig, call: CallSizes) -> int:
    """Peak bytes of a call while its past is put together, see `cache.chosen`.

    The tokens, the modulated tokens, q, k and v with the larger of: keys and values of the past, and both
    beside the call's own; or both beside the call's own, and the turned keys with what turning them needs.
    """
    size, widening = call.dtype.itemsize, _compute_dtype(call.dtype).itemsize // call.dtype.itemsize
    x, cached = (call.rows * n * model.dim * size for n in (call.query_tokens, call.attended_tokens))
    turning = 3 * cached if widening == 1 else (3 + 2 * widening) * cached
    return 6 * model.dim * size + 5 * x + max(4 * cached, turning)


def _linear(tokens: int, width_in: int, width_out: int, dtype: torch.dtype) -> Work:
    numbers = tokens * width_in + width_in * width_out + width_out + tokens * width_out
    return Work(2 * tokens * width_in * width_out, numbers * dtype.itemsize)


def _patchify(model: WanConfig, call: CallSizes) -> Work:
    """The convolution, and the copy that puts its tokens in the order of the layers."""
    tokens = call.rows * call.query_tokens
    copy = Work(pass_bytes=2 * tokens * model.dim * call.dtype.itemsize)
    return _linear(tokens, math.prod(model.patch) * model.in_channels, model.dim, call.dtype) + copy


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _rotate_bytes(size: int, call: CallSizes) -> int:
    """Traffic of `kernels.rope.rotate` on `size` bytes; torch widens, rotates and narrows half precision."""
    widening = 1 if call.kernels else _compute_dtype(call.dtype).itemsize // call.dtype.itemsize
    return 2 * size if widening == 1 else (2 + 4 * widening) * size
