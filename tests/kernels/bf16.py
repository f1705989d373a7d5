"""bfloat16 for Triton's interpreter, which keeps it as bit patterns in uint16 and computes with the patterns.

Its makers say that they do not support it (triton issues 4972, 11584, 11585). Products and conversions of
bfloat16 are given the meaning that they have on a GPU: multiply what the patterns stand for, round to the
nearest with ties to even. Additions of bfloat16 stay wrong; kernels convert to float32 first. Private names
of Triton are replaced, so a test asserts that this is needed and that it works.
"""

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def numbers(bits: np.ndarray) -> np.ndarray:
    """Returns the float32 numbers that bfloat16 patterns stand for."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def patterns(values: np.ndarray) -> np.ndarray:
    """Returns the bfloat16 patterns nearest to float32 numbers."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    to_even = bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))
    return np.where(np.isnan(values), 0x7FC0, to_even >> np.uint64(16)).astype(np.uint16)


def install(monkeypatch) -> None:
    """Replaces the interpreter's product and conversions until the patch is undone."""
    builder = interpreter.InterpreterBuilder
    plain_dot, plain_cast, plain_round = builder.create_dot, builder.cast_impl, builder.create_fp_to_fp

    def is_bf16(handle) -> bool:
        return handle.dtype.scalar == tl.bfloat16

    def create_dot(self, a, b, c, *options):
        if not is_bf16(a) and not is_bf16(b):
            return plain_dot(self, a, b, c, *options)
        left, right = (numbers(x.data) if is_bf16(x) else x.data.astype(np.float32) for x in (a, b))
        return interpreter.TensorHandle(np.matmul(left, right) + c.data, c.dtype.scalar)

    def cast_impl(self, handle, kind):
        if is_bf16(handle) and kind.scalar == tl.float32:
            return interpreter.TensorHandle(numbers(handle.data), tl.float32)
        if handle.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
            return interpreter.TensorHandle(patterns(handle.data), tl.bfloat16)
        return plain_cast(self, handle, kind)

    def create_fp_to_fp(self, handle, kind, mode):
        if tl.bfloat16 in (handle.dtype.scalar, kind.scalar):
            return cast_impl(self, handle, kind)
        return plain_round(self, handle, kind, mode)

    monkeypatch.setattr(builder, "create_dot", create_dot)
    monkeypatch.setattr(builder, "cast_impl", cast_impl)
    monkeypatch.setattr(builder, "create_fp_to_fp", create_fp_to_fp)
    for name in ("create_fp_trunc", "create_fp_ext"):
        monkeypatch.setattr(builder, name, cast_impl)
