"""Symmetric integers with one scale for each group of channels of a token. C channels."""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import uses_triton

LARGEST = {8: 127, 4: 7}  # bits -> largest code; the smallest is its negative


def quantize(
    x_RC: Tensor,
    group: int,
    bits: int,
    out: Tensor | None = None,
    scales: Tensor | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Codes and scales of x [..., C], any leading dimensions: x = code * scale of its group.

    bits 8: codes int8 [..., C] in [-127, 127]. bits 4: codes uint8 [..., C/2] of values in [-7, 7] stored
    plus 8, channel 2i in the low four bits and 2i+1 in the high ones. scales: [..., C/group], float16 or the
    buffer's dtype. A scale is the group's largest magnitude / 127 (or / 7) as stored; codes are x / scale,
    halves away from zero. With float16 scales a group beyond 65504 * 127 (* 7) saturates. out, scales:
    buffers to write and return, contiguous in the last dimension; None: new tensors.
    """
    codes_shape = _check(x_RC, group, bits)
    if out is None:
        out = torch.empty(codes_shape, dtype=_code_dtype(bits), device=x_RC.device)
    if scales is None:
        shape = (*x_RC.shape[:-1], x_RC.shape[-1] // group)
        scales = torch.empty(shape, dtype=torch.float16, device=x_RC.device)
    _check_buffers("quantize", out, scales, codes_shape, x_RC.shape[-1] // group, bits)
    if uses_triton("quantize", impl, x_RC, out, scales, obstacle=_obstacle(x_RC)):
        from ._triton.quantize import quantize_triton

        quantize_triton(x_RC, group, bits, out, scales)
    else:
        quantize_reference(x_RC, group, bits, out, scales)
    return out, scales


def quantize_reference(x_RC: Tensor, group: int, bits: int, out: Tensor, scales: Tensor) -> None:
    """Round to the nearest multiple of the group's scale (absmax, arXiv:2208.07339, section 2)."""
    top = LARGEST[bits]
    x = x_RC.to(torch.promote_types(x_RC.dtype, torch.float32)).unflatten(-1, (-1, group))
    scales.copy_((x.abs().amax(-1) / top).clamp(max=torch.finfo(scales.dtype).max))
    step = scales.to(x.dtype)[..., None]
    ratio = torch.where(step > 0, x / step, 0)
    # clamped as well: a scale that storing rounded down leaves the largest channel just beyond the last code
    codes = ratio.abs().add(0.5).floor().copysign(ratio).clamp(-top, top).flatten(-2)
    if bits == 8:
        out.copy_(codes)
    else:
        low, high = (codes + 8).to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
        out.copy_(low | high << 4)


def dequantize(
    codes: Tensor,
    scales: Tensor,
    group: int,
    bits: int,
    dtype: torch.dtype,
    out: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """The channels [..., C] of `quantize`'s codes: code * scale in float32, rounded once to dtype."""
    channels = codes.shape[-1] * 8 // bits if bits in LARGEST else 0
    if bits not in LARGEST or group < 1 or channels % group:
        raise ValueError(
            f"dequantize: {channels} channels of {bits} bits do not divide into groups of {group}; "
            f"pass the group that quantize got."
        )
    _check_buffers("dequantize", codes, scales, codes.shape, channels // group, bits)
    if out is None:
        out = torch.empty((*codes.shape[:-1], channels), dtype=dtype, device=codes.device)
    if out.shape != (*codes.shape[:-1], channels) or out.dtype != dtype:
        wanted = [*codes.shape[:-1], channels]
        raise ValueError(
            f"dequantize: out must be {wanted} of {dtype}, got {list(out.shape)} of {out.dtype}."
        )
    if uses_triton("dequantize", impl, codes, out, scales, obstacle=_obstacle(codes)):
        from ._triton.quantize import dequantize_triton

        dequantize_triton(codes, scales, group, bits, out)
    else:
        dequantize_reference(codes, scales, group, bits, out)
    return out


def dequantize_reference(codes: Tensor, scales: Tensor, group: int, bits: int, out: Tensor) -> None:
    """code * scale of its group."""
    if bits == 4:
        codes = torch.stack([codes & 15, codes >> 4], -1).flatten(-2).to(torch.int8) - 8
    wide = torch.promote_types(scales.dtype, torch.float32)
    numbers = codes.to(wide).unflatten(-1, (-1, group)) * scales.to(wide)[..., None]
    out.copy_(numbers.flatten(-2))


def _obstacle(x: Tensor) -> str:
    return "" if x.ndim <= 3 else f"it takes up to three dimensions, not {x.ndim}."


def _code_dtype(bits: int) -> torch.dtype:
    return torch.int8 if bits == 8 else torch.uint8


def _check(x_RC: Tensor, group: int, bits: int) -> tuple[int, ...]:
    """The shape of the codes."""
    if bits not in LARGEST:
        raise ValueError(f"quantize: codes have 8 or 4 bits, not {bits}; choose one of them.")
    if not x_RC.is_floating_point() or x_RC.ndim < 1:
        raise ValueError(
            f"quantize: x must be [..., C] of floating point, got {list(x_RC.shape)} of {x_RC.dtype}."
        )
    channels = x_RC.shape[-1]
    if group < 1 or channels % group or (bits == 4 and group % 2):
        raise ValueError(
            f"quantize: {channels} channels do not divide into groups of {group}"
            f"{' with an even number of int4 channels' if bits == 4 else ''}; "
            f"give a group that divides the channels."
        )
    return (*x_RC.shape[:-1], channels * bits // 8)


def _check_buffers(
    op: str, codes: Tensor, scales: Tensor, shape: tuple[int, ...], groups: int, bits: int
) -> None:
    if codes.shape != shape or codes.dtype != _code_dtype(bits):
        raise ValueError(
            f"{op}: codes of {bits} bits must be {list(shape)} of {_code_dtype(bits)}, "
            f"got {list(codes.shape)} of {codes.dtype}."
        )
    wanted = [*shape[:-1], groups]
    if list(scales.shape) != wanted or scales.dtype not in (torch.float16, torch.float32):
        raise ValueError(
            f"{op}: scales must be {wanted} of float16 or float32, "
            f"got {list(scales.shape)} of {scales.dtype}."
        )
