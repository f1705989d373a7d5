"""ComfyUI's own fused operations, of comfy-kitchen, for the engine where its Triton kernels do not run.

B batch rows, L tokens in T frames, N heads, D head width, C channels.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import comfy.quant_ops
from torch import Tensor

from ...kernels.dispatch import offer
from .past import rotation_matrices

KEPT = 3  # tables whose matrices stay: of a block's keys, its queries and its memory


def offer_operations() -> None:
    """Offer what comfy-kitchen has on CUDA; nothing where it is not installed or its CUDA part is off."""
    kitchen = getattr(comfy.quant_ops, "ck", None)
    for op, operation in operations(kitchen, "cuda").items():
        offer(op, operation)


def operations(kitchen: Any, backend: str) -> dict[str, Any]:
    """The engine's ops that a backend of comfy-kitchen can do, in the engine's terms."""
    if kitchen is None or not hasattr(kitchen, "list_backends"):
        return {}
    state = kitchen.list_backends().get(backend, {})
    usable = state.get("available") and not state.get("disabled")
    able = set(state.get("capabilities", ())) if usable else set()
    found: dict[str, Any] = {}
    if "apply_rope1" in able:
        found["rotate"] = Rotation(kitchen)
    if "adaln" in able:
        found["norm_modulate"] = NormModulate(kitchen)
    return found


class Rotation:
    """`kernels.rope.rotate` by comfy-kitchen, which reads a table as matrices."""

    def __init__(self, kitchen: Any) -> None:
        self.kitchen = kitchen
        self._kept: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()  # by the table's id

    def __call__(self, x_BLND: Tensor, table_L: Tensor) -> Tensor:
        """x with each pair of channels rotated; table (cos, sin) [L, D/2, 2]."""
        return self.kitchen.apply_rope1(x_BLND, self._matrices(table_L))

    def _matrices(self, table_L: Tensor) -> Tensor:
        # the table is held too: its id stays its own
        kept = self._kept.pop(id(table_L), None) or (table_L, rotation_matrices(table_L))
        self._kept[id(table_L)] = kept
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return kept[1]


class NormModulate:
    """`kernels.modulate.norm_modulate` by comfy-kitchen."""

    def __init__(self, kitchen: Any) -> None:
        self.kitchen = kitchen

    def __call__(self, x_BLC: Tensor, shift_BTC: Tensor, scale_BTC: Tensor, eps: float) -> Tensor:
        """LayerNorm without weights, times 1 + scale, plus shift, frame by frame."""
        x_BTSC = x_BLC.unflatten(1, (shift_BTC.shape[1], -1))
        vectors = (vector[:, :, None].expand(len(x_BLC), -1, -1, -1) for vector in (scale_BTC, shift_BTC))
        return self.kitchen.adaln(x_BTSC, *vectors, eps).flatten(1, 2)
