"""Triton version of kernels/modulate.py: one program a token, bound by memory: each tensor moves once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, power_of_two, strides


@triton.jit(do_not_specialize=["SHIFT_S", "SCALE_S", "GATE_S"])
def _modulate(
    X, UPDATE, GATE, SHIFT, SCALE, SUM, OUT, C, GATE_S, SHIFT_S, SCALE_S, eps,
    x_b, x_l, u_b, u_l, GATE_b, GATE_t, SHIFT_b, SHIFT_t, SCALE_b, SCALE_t, y_b, y_l, o_b, o_l,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # *_S: tokens that share a vector
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    c = tl.arange(0, BLOCK)
    ok = c < C
    x = tl.load(X + batch * x_b + token * x_l + c, mask=ok, other=0.0).to(tl.float32)
    if UPDATE is not None:
        update = tl.load(UPDATE + batch * u_b + token * u_l + c, mask=ok, other=0.0).to(tl.float32)
        if GATE is not None:
            g_at = GATE + batch * GATE_b + token // GATE_S * GATE_t + c
            update = update * tl.load(g_at, mask=ok, other=0.0).to(tl.float32)
        y = (x + update).to(SUM.dtype.element_ty)
        tl.store(SUM + batch * y_b + token * y_l + c, y, mask=ok)
        x = y.to(tl.float32)
    x = tl.where(ok, x - tl.sum(x, 0) / C, 0.0)
    x = x * tl.rsqrt(tl.sum(x * x, 0) / C + eps)
    scale_at = SCALE + batch * SCALE_b + token // SCALE_S * SCALE_t + c
    shift_at = SHIFT + batch * SHIFT_b + token // SHIFT_S * SHIFT_t + c
    scale = tl.load(scale_at, mask=ok, other=0.0).to(tl.float32)
    shift = tl.load(shift_at, mask=ok, other=0.0).to(tl.float32)
    h = x * (1.0 + scale) + shift
    tl.store(OUT + batch * o_b + token * o_l + c, h.to(OUT.dtype.element_ty), mask=ok)


def norm_modulate_triton(x_BLC: Tensor, shift_BTC: Tensor, scale_BTC: Tensor, eps: float) -> Tensor:
    """See `kernels.modulate.norm_modulate`."""
    out = torch.empty_like(x_BLC, memory_format=torch.contiguous_format)
    launch(x_BLC, None, None, shift_BTC, scale_BTC, eps, None, out).run()
    return out


def add_norm_modulate_triton(
    x_BLC: Tensor,
    update_BLC: Tensor,
    gate_BTC: Tensor | None,
    shift_BTC: Tensor,
    scale_BTC: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See `kernels.modulate.add_norm_modulate`."""
    total, out = (torch.empty_like(x_BLC, memory_format=torch.contiguous_format) for _ in range(2))
    launch(x_BLC, update_BLC, gate_BTC, shift_BTC, scale_BTC, eps, total, out).run()
    return total, out


def launch(
    x_BLC: Tensor,
    update_BLC: Tensor | None,
    gate_BTC: Tensor | None,
    shift_BTC: Tensor,
    scale_BTC: Tensor,
    eps: float,
    total: Tensor | None,
    out: Tensor,
) -> Launch:
    """The launch that writes `out`, and `total` = x + update * gate where there is an update."""
    rows, tokens, channels = x_BLC.shape
    arguments = {"X": x_BLC, "UPDATE": update_BLC, "GATE": gate_BTC, "SHIFT": shift_BTC, "SCALE": scale_BTC}
    arguments |= {"SUM": total, "OUT": out, "C": channels, "eps": eps}
    arguments |= strides("x", x_BLC, "bl") | strides("u", update_BLC, "bl")
    arguments |= strides("y", total, "bl") | strides("o", out, "bl")
    for name, vector in (("GATE", gate_BTC), ("SHIFT", shift_BTC), ("SCALE", scale_BTC)):
        whole = None if vector is None else vector.expand(rows, -1, -1)  # one that rows share has stride 0
        arguments |= strides(name, whole, "bt")
        arguments[f"{name}_S"] = tokens if vector is None else tokens // vector.shape[1]
    block = power_of_two(channels, 16)
    op, warps = "norm_modulate" if update_BLC is None else "add_norm_modulate", 4 if block <= 4096 else 8
    return Launch(op, _modulate, (tokens, rows), arguments, {"BLOCK": block}, warps, stages=1)
