"""What the kernels are measured on: shapes of Wan 2.1, with the bytes and operations that cannot be saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.latent_write import latent_write
from ...kernels.modulate import add_norm_modulate, norm_modulate
from ...kernels.norm_rope import norm_rope
from ...kernels.projections import UpProjections
from ...kernels.quantize import dequantize, quantize
from ...kernels.rebuild import rebuild
from ...kernels.rope import rotate
from ...kernels.segment_attention import segment_attention
from ...kernels.tiers import Latents, Tiers

BLOCK = 3 * 1560  # tokens of a block of three latent frames at 832x480
WINDOW, LONG = 2 * BLOCK, 6 * BLOCK  # kept tokens beside the block's own, windows of 9 and 21 latent frames
GROUP = 32  # channels that share a scale
HEADS, WIDTH = 12, 128  # Wan 1.3B
CHANNELS = HEADS * WIDTH

Make = Callable[..., Tensor]  # sizes and a dtype: a tensor on the device that is measured


@dataclass(frozen=True, slots=True)
class Work:
    """One call on given tensors. moved: each tensor it must read or write once; flop: of its matrix products.

    launches: (module of kernels/_triton, function of it, arguments) of the kernel that does it.
    """

    run: Callable[[str], object]
    moved: Sequence[Tensor]
    launch: tuple[str, str, tuple]
    flop: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of all that is moved."""
        return sum(tensor.numel() * tensor.itemsize for tensor in self.moved)


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table of kernels; make: with what makes tensors, and a number of tokens."""

    op: str
    name: str
    tokens: int
    make: Callable[[Make, int], Work]


def maker(device: torch.device) -> Make:
    """Makes tensors there, of normal numbers or, for codes, of any bytes."""

    def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        if dtype.is_floating_point:
            return torch.randn(*shape, device=device).to(dtype)
        low, high = torch.iinfo(dtype).min + 1, torch.iinfo(dtype).max
        return torch.randint(low, high, shape, dtype=dtype, device=device)

    return make


def _latents(make: Make, tokens: int, tiers: Tiers) -> Latents:
    codes = make(1, tokens, tiers.code_bytes, dtype=torch.int8)
    return Latents(codes, make(1, tokens, tiers.groups, dtype=torch.float16), tiers)


def _rebuild(make: Make, tokens: int, tiers: Tiers | int, shared: int = 0) -> Work:
    latents = Latents(make(1, tokens, tiers)) if isinstance(tiers, int) else _latents(make, tokens, tiers)
    rank = latents.rank - shared
    up = UpProjections(make(rank, HEADS * (WIDTH - shared)), make(rank, CHANNELS))
    if not shared:
        up = UpProjections(up.key, up.value, *(make(CHANNELS, dtype=torch.float32) for _ in range(2)))
    table = make(tokens, (shared or WIDTH) // 2, 2, dtype=torch.float32)
    inverse = None if shared else make(1, tokens, dtype=torch.float16)
    keys, values = make(1, tokens, HEADS, WIDTH), make(1, tokens, HEADS, WIDTH)
    given = (latents, up, table, keys, values, inverse)
    parts = (latents.codes, latents.scales, up.key, up.value, up.key_bias, up.value_bias, *given[2:])
    return Work(
        lambda impl: rebuild(*given, impl=impl),
        [part for part in parts if part is not None],
        ("rebuild", "launch", given),
        2 * tokens * rank * (up.key.shape[1] + up.value.shape[1]),
    )


def _rotate(make: Make, tokens: int) -> Work:
    x, out = make(1, tokens, HEADS, WIDTH), make(1, tokens, HEADS, WIDTH)
    table = make(tokens, WIDTH // 2, 2, dtype=torch.float32)
    return Work(
        lambda impl: rotate(x, table, impl=impl, out=out),
        (x, table, out),
        ("norm_rope", "launch", (x, table, out, False)),
    )


def _norm_rope(make: Make, tokens: int, heads: int) -> Work:
    x, out = make(1, tokens, heads, WIDTH), make(1, tokens, heads, WIDTH)
    table, gain = make(tokens, WIDTH // 2, 2, dtype=torch.float32), make(heads * WIDTH)
    return Work(
        lambda impl: norm_rope(x, gain, table, out=out, impl=impl),
        (x, table, gain, out),
        ("norm_rope", "launch", (x, table, out, True, 1e-6, gain)),
    )


def _modulate(make: Make, tokens: int, channels: int, adds: bool) -> Work:
    x, out = make(1, tokens, channels), make(1, tokens, channels)
    shift, scale, gate = (make(1, 1, channels) for _ in range(3))
    if not adds:
        return Work(
            lambda impl: norm_modulate(x, shift, scale, 1e-6, impl),
            (x, shift, scale, out),
            ("modulate", "launch", (x, None, None, shift, scale, 1e-6, None, out)),
        )
    update, total = make(1, tokens, channels), make(1, tokens, channels)
    return Work(
        lambda impl: add_norm_modulate(x, update, gate, shift, scale, 1e-6, impl),
        (x, update, gate, shift, scale, total, out),
        ("modulate", "launch", (x, update, gate, shift, scale, 1e-6, total, out)),
    )


def _quantize(make: Make, tokens: int, bits: int, back: bool) -> Work:
    x = make(1, tokens, CHANNELS)
    codes = make(1, tokens, CHANNELS * bits // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
    scales = make(1, tokens, CHANNELS // GROUP, dtype=torch.float16)
    if back:
        name, given = "dequantize_launch", (codes, scales, x, GROUP, bits)

        def run(impl: str) -> object:
            return dequantize(codes, scales, GROUP, bits, x.dtype, x, impl)
    else:
        name, given = "quantize_launch", (x, codes, scales, GROUP, bits)

        def run(impl: str) -> object:
            return quantize(x, GROUP, bits, codes, scales, impl)

    return Work(run, (x, codes, scales), ("quantize", name, given))


def _latent_write(make: Make, tokens: int, tiers: Tiers) -> Work:
    latents = _latents(make, tokens, tiers)
    x, basis = make(1, tokens, CHANNELS), make(CHANNELS, tiers.rank, dtype=torch.float32)
    given = (x, basis, make(tiers.rank, dtype=torch.float32), tiers, latents.codes, latents.scales)
    return Work(
        lambda impl: latent_write(*given, impl=impl),
        (*given[:3], *given[4:]),
        ("latent_write", "launch", given),
        2 * tokens * CHANNELS * tiers.rank,
    )


def _attention(make: Make, tokens: int, ninths: Sequence[int]) -> Work:
    """A third as many queries as keys, whose segments hold so many ninths of them."""
    queries, lengths = tokens // 3, [part * tokens // 9 for part in ninths]
    q, out = make(1, queries, HEADS, WIDTH), make(1, queries, HEADS, WIDTH)
    pairs = [(make(1, n, HEADS, WIDTH), make(1, n, HEADS, WIDTH)) for n in lengths]
    total = make(1, HEADS, queries, dtype=torch.float32)
    return Work(
        lambda impl: segment_attention(q, pairs, impl=impl),
        (q, out, total, *(part for pair in pairs for part in pair)),
        ("segment_attention", "launch", (q, pairs, WIDTH**-0.5, out, total)),
        4 * queries * sum(lengths) * CHANNELS,
    )


def _over_windows(name: str, tiers: Tiers | int, shared: int = 0) -> list[Case]:
    return [
        Case(op="rebuild", name=name, tokens=tokens, make=lambda m, n: _rebuild(m, n, tiers, shared))
        for tokens in (WINDOW, LONG)
    ]


CASES = [
    *_over_windows("256 int8", Tiers(256, group=GROUP)),
    *_over_windows("256 int8 + 256 int4", Tiers(256, 256, GROUP)),
    *_over_windows("256 int8 + 768 int4", Tiers(256, 768, GROUP)),
    *_over_windows("mla 192+32", 224, 32),
    *_over_windows("mla 192+32 int8", Tiers(224, group=GROUP), 32),
    Case(op="rope", name="12 heads", tokens=WINDOW, make=_rotate),
    Case(op="rope", name="12 heads", tokens=LONG, make=_rotate),
    Case(op="norm_rope", name="12 heads", tokens=BLOCK, make=lambda m, n: _norm_rope(m, n, 12)),
    Case(op="norm_rope", name="40 heads", tokens=BLOCK, make=lambda m, n: _norm_rope(m, n, 40)),
    Case(op="modulate", name="add and norm", tokens=BLOCK, make=lambda m, n: _modulate(m, n, CHANNELS, True)),
    Case(op="modulate", name="norm", tokens=BLOCK, make=lambda m, n: _modulate(m, n, CHANNELS, False)),
    Case(
        op="modulate", name="add and norm, 5120", tokens=BLOCK, make=lambda m, n: _modulate(m, n, 5120, True)
    ),
    Case(op="quantize", name="int8", tokens=BLOCK, make=lambda m, n: _quantize(m, n, 8, False)),
    Case(op="quantize", name="int4", tokens=BLOCK, make=lambda m, n: _quantize(m, n, 4, False)),
    Case(op="quantize", name="int8 back", tokens=WINDOW, make=lambda m, n: _quantize(m, n, 8, True)),
    Case(op="quantize", name="int4 back", tokens=WINDOW, make=lambda m, n: _quantize(m, n, 4, True)),
    Case(
        op="latent_write",
        name="256 int8 + 256 int4",
        tokens=BLOCK,
        make=lambda m, n: _latent_write(m, n, Tiers(256, 256, GROUP)),
    ),
    Case(
        op="latent_write",
        name="256 int8 + 768 int4",
        tokens=BLOCK,
        make=lambda m, n: _latent_write(m, n, Tiers(256, 768, GROUP)),
    ),
    Case(
        op="segment_attention",
        name="1 segment",
        tokens=WINDOW + BLOCK,
        make=lambda m, n: _attention(m, n, [9]),
    ),
    Case(
        op="segment_attention",
        name="3 segments",
        tokens=WINDOW + BLOCK,
        make=lambda m, n: _attention(m, n, [1, 3, 5]),
    ),
]
