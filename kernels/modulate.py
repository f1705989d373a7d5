"""LayerNorm without weights and the timestep's modulation, with the addition before them where there is one.

B rows, L tokens in T frames, C channels. Shift, scale and gate are one vector a frame, or one for all; rows
may share them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import offered, uses_triton


def modulate(x_BLC: Tensor, shift_BTC: Tensor, scale_BTC: Tensor) -> Tensor:
    """x * (1 + scale) + shift, frame by frame."""
    x_BTSC = x_BLC.unflatten(1, (shift_BTC.shape[1], -1))
    return torch.addcmul(shift_BTC[:, :, None], x_BTSC, 1 + scale_BTC[:, :, None]).flatten(1, 2)


def gate(x_BLC: Tensor, update_BLC: Tensor, gate_BTC: Tensor) -> Tensor:
    """x + update * gate, frame by frame."""
    frames = gate_BTC.shape[1]
    x_BTSC, update_BTSC = x_BLC.unflatten(1, (frames, -1)), update_BLC.unflatten(1, (frames, -1))
    return torch.addcmul(x_BTSC, update_BTSC, gate_BTC[:, :, None]).flatten(1, 2)


def norm_modulate(
    x_BLC: Tensor, shift_BTC: Tensor, scale_BTC: Tensor, eps: float, impl: str = "auto"
) -> Tensor:
    """modulate(LayerNorm(x), shift, scale) in x's dtype. The kernel computes in float32 and rounds once."""
    _check("norm_modulate", x_BLC, None, (shift_BTC, scale_BTC))
    if _runs_kernel("norm_modulate", impl, x_BLC, shift_BTC, scale_BTC):
        from ._triton.modulate import norm_modulate_triton

        return norm_modulate_triton(x_BLC, shift_BTC, scale_BTC, eps)
    if (operation := offered("norm_modulate", impl, x_BLC)) is not None:
        return operation(x_BLC, shift_BTC, scale_BTC, eps)
    return norm_modulate_reference(x_BLC, shift_BTC, scale_BTC, eps)


def add_norm_modulate(
    x_BLC: Tensor,
    update_BLC: Tensor,
    gate_BTC: Tensor | None,
    shift_BTC: Tensor,
    scale_BTC: Tensor,
    eps: float,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """(y, modulate(LayerNorm(y), shift, scale)) with y = x + update * gate, both in x's dtype.

    gate None: y = x + update. The kernel computes in float32; y is rounded before it is normalised.
    """
    vectors = (shift_BTC, scale_BTC) if gate_BTC is None else (shift_BTC, scale_BTC, gate_BTC)
    _check("add_norm_modulate", x_BLC, update_BLC, vectors)
    if _runs_kernel("add_norm_modulate", impl, x_BLC, update_BLC, *vectors):
        from ._triton.modulate import add_norm_modulate_triton

        return add_norm_modulate_triton(x_BLC, update_BLC, gate_BTC, shift_BTC, scale_BTC, eps)
    if impl == "auto" and (operation := offered("norm_modulate", impl, x_BLC)) is not None:
        y_BLC = _add(x_BLC, update_BLC, gate_BTC)
        return y_BLC, operation(y_BLC, shift_BTC, scale_BTC, eps)
    return add_norm_modulate_reference(x_BLC, update_BLC, gate_BTC, shift_BTC, scale_BTC, eps)


def norm_modulate_reference(x_BLC: Tensor, shift_BTC: Tensor, scale_BTC: Tensor, eps: float) -> Tensor:
    """Adaptive layer norm (DiT, arXiv:2212.09748, section 3.2), rounded to x's dtype after each step."""
    return modulate(F.layer_norm(x_BLC, x_BLC.shape[-1:], eps=eps), shift_BTC, scale_BTC)


def add_norm_modulate_reference(
    x_BLC: Tensor,
    update_BLC: Tensor,
    gate_BTC: Tensor | None,
    shift_BTC: Tensor,
    scale_BTC: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The gated addition, then adaptive layer norm."""
    y_BLC = _add(x_BLC, update_BLC, gate_BTC)
    return y_BLC, norm_modulate_reference(y_BLC, shift_BTC, scale_BTC, eps)


def _add(x_BLC: Tensor, update_BLC: Tensor, gate_BTC: Tensor | None) -> Tensor:
    return x_BLC + update_BLC if gate_BTC is None else gate(x_BLC, update_BLC, gate_BTC)


def _runs_kernel(op: str, impl: str, *tensors: Tensor) -> bool:
    # in a graph of torch.compile the reference is joined with what is around it
    if torch.compiler.is_compiling():
        return False
    same = len({tensor.dtype for tensor in tensors}) == 1
    return uses_triton(op, impl, *tensors, obstacle="" if same else "tensors differ in dtype.")


def _check(where: str, x_BLC: Tensor, update_BLC: Tensor | None, vectors: tuple[Tensor, ...]) -> None:
    if x_BLC.ndim != 3 or (update_BLC is not None and update_BLC.shape != x_BLC.shape):
        got = "" if update_BLC is None else f" and an update {list(update_BLC.shape)}"
        raise ValueError(
            f"{where}: x must be [B, L, C] and an update of its shape, got {list(x_BLC.shape)}{got}."
        )
    rows, tokens, channels = x_BLC.shape
    for vector in vectors:
        fits = vector.ndim == 3 and vector.shape[0] in (1, rows) and vector.shape[2] == channels
        if not fits or not vector.shape[1] or tokens % vector.shape[1]:
            raise ValueError(
                f"{where}: {rows} rows of {tokens} tokens of {channels} channels need shift, scale and gate "
                f"[{rows}, T, {channels}] with T frames that divide the tokens, got {list(vector.shape)}."
            )
