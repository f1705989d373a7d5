"""Latents of a layer's input in a calibrated basis, leading coordinates in int8, the others in int4.

B batch rows, L tokens, C channels of the model, R rank, N heads, D head width. A layer's input x is stored as
c = (x - mu) P, after XQuant (store the input, recompute keys and values) and KVTC (more bits for important
coordinates). Reads decode keys and values with projections that include the basis; the true key's 1/rms is
stored, so that no sum over heads is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kernels.latent_write import latent_write
from ...kernels.projections import UpProjections
from ...kernels.rebuild import rebuild
from ...kernels.tiers import Latents, Tiers
from ..arch.effective import effective_gain, effective_linear
from ..arch.tree import AttentionTree, DiTTree, width_of
from ..reason import dtype_name
from .basis import Basis, LayerBasis, LayerPlan, why_no_basis
from .basis_file import check_model, load_basis
from .coded import Buffers, Codec, CodedStore, PlainCodec
from .core import StoredFormat
from .cost import CacheCost, coded_cost, dense_layer_bytes, int8_layer_bytes, latent_layer_bytes
from .int8 import Int8Codec
from .kind import CacheKind, Source
from .shapes import NO_EXACT, CacheShape, Exact

PLANNED_GROUP = 64  # coordinates per scale, assumed before there is a basis


class LatentCodec(Codec):
    """One layer's latents: codes, scales and 1/rms of the key."""

    def __init__(
        self,
        layer: int,
        attention: AttentionTree,
        basis: LayerBasis,
        tiers: Tiers,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """attention: its effective weights are read when keys and values are first decoded."""
        wide = torch.promote_types(dtype, torch.float32)
        self.layer, self.attention, self.basis, self.tiers = layer, attention, basis, tiers
        self.dtype, self.device, self.channels = dtype, device, basis.mu_C.shape[0]
        self.down_CR = basis.down_CR[:, : tiers.rank].to(device, wide).contiguous()
        self.shift_R = basis.mu_C.to(device, wide) @ self.down_CR
        folded = torch.empty(2, tiers.rank, self.channels, dtype=dtype, device=device)
        biases = torch.empty(2, self.channels, dtype=wide, device=device)
        self.up = UpProjections(folded[0], folded[1], biases[0], biases[1])
        self.probe_11C = basis.mu_C.to(device, dtype)[None, None]
        self.asked: Tensor | None = None  # the layers' answer to it when their weights were last folded

    def buffers(self, rows: int, tokens: int) -> dict[str, Tensor]:
        tiers, device = self.tiers, self.device
        return {
            "codes": torch.zeros(rows, tokens, tiers.code_bytes, dtype=torch.int8, device=device),
            "scales": torch.zeros(rows, tokens, tiers.groups, dtype=torch.float16, device=device),
            "inverse_rms": torch.zeros(rows, tokens, dtype=torch.float16, device=device),
        }

    def encode(self, buffers: Buffers, x_BLC: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> None:
        # 1/rms is the factor of the norm on the true key
        latent_write(x_BLC, self.down_CR, self.shift_R, self.tiers, buffers["codes"], buffers["scales"])
        wide = self.down_CR.dtype
        plain_BLC = self.attention.k(x_BLC).to(wide) * self._gain()
        squares = plain_BLC.square().sum(-1).clamp(min=torch.finfo(wide).tiny)
        buffers["inverse_rms"].copy_((k_BLND.flatten(2).to(wide) * plain_BLC).sum(-1) / squares)

    def rebuild(self, buffers: Buffers, table_L: Tensor, keys_BLND: Tensor, values_BLND: Tensor) -> None:
        latents = Latents(buffers["codes"], buffers["scales"], self.tiers)
        rebuild(latents, self.up, table_L, keys_BLND, values_BLND, buffers["inverse_rms"])

    def weights(self) -> Sequence[Tensor]:
        up = self.up
        assert up.key_bias is not None and up.value_bias is not None
        return (self.down_CR, self.shift_R, up.key, up.value, up.key_bias, up.value_bias)

    def on(self, device: torch.device) -> LatentCodec:
        moved = super().on(device)
        moved.down_CR, moved.shift_R = self.down_CR.to(device), self.shift_R.to(device)
        moved.up, moved.probe_11C = self.up.to(device), self.probe_11C.to(device)
        moved.asked = None if self.asked is None else self.asked.to(device)
        return moved

    def is_current(self) -> Tensor | bool:
        return self.asked is not None and (self._answer() == self.asked).all()

    def _answer(self) -> Tensor:
        attention, probe = self.attention, self.probe_11C
        return torch.cat([attention.norm_k(attention.k(probe)), attention.v(probe)])

    def read_weights(self) -> None:
        attention, answer = self.attention, self._answer()
        self.asked = None  # until both projections are those of these weights
        wide = self.down_CR.dtype
        mu_C, up_RC = (t.to(self.device, wide) for t in (self.basis.mu_C, self.basis.up_RC))
        sides = (
            (attention.k, self._gain(), self.up.key, self.up.key_bias),
            (attention.v, 1.0, self.up.value, self.up.value_bias),
        )
        for layer, gain, folded_RC, folded_bias_C in sides:
            weight_CC, bias_C = effective_linear(layer, self.channels, self.dtype, self.device)
            folded_RC.copy_(up_RC[: self.tiers.rank] @ weight_CC * gain)
            assert folded_bias_C is not None
            folded_bias_C.copy_((mu_C @ weight_CC + bias_C) * gain)
            if not folded_RC.isfinite().all():
                raise ValueError(
                    f"Cache latent: the projections of layer {self.layer} overflow {dtype_name(self.dtype)} "
                    f"with the basis in them; run the model in bfloat16, or plan this layer as int8."
                )
        self.asked = answer

    def _gain(self) -> Tensor:
        return effective_gain(self.attention.norm_k, self.channels, self.dtype, self.device)


@dataclass(frozen=True, slots=True, eq=False)
class LatentFormat(StoredFormat):
    """Every layer as in the basis's plan, `exact` frames dense besides."""

    basis: Basis
    exact: Exact = NO_EXACT
    name: str = "latent"

    @property
    def cost(self) -> CacheCost:
        return latent_cost(self.basis.plan, self.basis.group, self.exact, self.name)

    @property
    def error(self) -> float | None:
        error = self.basis.provenance.get("error")
        return float(error) if isinstance(error, (int, float)) else None

    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if the basis is for other sizes, or this model can have none, else None."""
        if refusal := why_no_basis(model):
            return refusal
        layers, width, again = len(model.blocks), width_of(model), "take the basis of this checkpoint"
        if len(self.basis.plan) != layers:
            return (
                f"Cache latent: the basis is for {len(self.basis.plan)} layers, the model has {layers}; "
                f"{again}, or calibrate one."
            )
        for index, basis in enumerate(self.basis.layers):
            if basis is not None and basis.mu_C.shape[0] != width:
                return (
                    f"Cache latent: layer {index} of the basis is for a width of {basis.mu_C.shape[0]}, the "
                    f"model's is {width}; {again}, or calibrate one."
                )
        return None

    def check_weights(self, weights_LKR: Tensor, channels: int, adapted: bool = False) -> str:
        return check_model(self.basis, weights_LKR, channels, adapted)

    def scaled_cost(self, shape: CacheShape, channels: int) -> CacheCost:
        # ranks in proportion to the width; more layers repeat the plan
        basis, width = self.basis, shape.heads * shape.head_dim
        turns = [basis.plan[layer % len(basis.plan)] for layer in range(shape.layers)]
        scaled = [
            LayerPlan(
                plan.kind,
                *(round(n * width / channels / basis.group) * basis.group for n in (plan.rank, plan.wide)),
            )
            for plan in turns
        ]
        return latent_cost(scaled, basis.group, self.exact, self.name)

    def store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> CodedStore:
        codecs = [self._codec(model, shape, layer, dtype, device) for layer in range(shape.layers)]
        return CodedStore(shape, frames, dtype, device, codecs, self.exact)

    def spec(self) -> dict[str, object]:
        exact = {"exact_sink": self.exact.sink, "exact_newest": self.exact.newest}
        return {"name": self.name, "basis": self.basis.fingerprint, **exact}

    def _codec(
        self, model: DiTTree, shape: CacheShape, layer: int, dtype: torch.dtype, device: torch.device
    ) -> Codec:
        channels = shape.heads * shape.head_dim
        plan, basis = self.basis.plan[layer], self.basis.layers[layer]
        if plan.kind == "dense":
            return PlainCodec(shape.heads, shape.head_dim, dtype, device)
        if plan.kind == "int8":
            return Int8Codec(channels, self.basis.group, device)
        assert basis is not None
        tiers = _tiers(plan, self.basis.group)
        return LatentCodec(layer, model.blocks[layer].self_attn, basis, tiers, dtype, device)


def latent_cost(
    plans: Sequence[LayerPlan], group: int, exact: Exact = NO_EXACT, name: str = "latent"
) -> CacheCost:
    """The cost of a basis with these plans; ValueError for a model with another number of layers."""

    def layer_bytes(shape: CacheShape, layer: int, dtype: torch.dtype) -> int:
        _refuse_other_layers(plans, shape)
        plan = plans[layer]
        if plan.kind == "latent":
            return latent_layer_bytes(plan.rank, plan.wide, group)
        dense = plan.kind == "dense"
        return dense_layer_bytes(shape, layer, dtype) if dense else int8_layer_bytes(shape, group)

    def weight_bytes(shape: CacheShape, dtype: torch.dtype) -> int:
        """P and mu P in float32 or wider, the folded projections, their biases."""
        wide, channels = torch.promote_types(dtype, torch.float32).itemsize, shape.heads * shape.head_dim
        ranks = [plan.rank for plan in plans if plan.kind == "latent"]
        each = channels * wide + wide + 2 * channels * dtype.itemsize
        return sum(rank * each + 2 * channels * wide for rank in ranks)

    def read_flops(shape: CacheShape, layer: int) -> int:
        """Of a key and a value from R coordinates."""
        plan = plans[layer]
        return 4 * plan.rank * shape.heads * shape.head_dim if plan.kind == "latent" else 0

    return coded_cost(name, layer_bytes, exact, weight_bytes, read_flops)


def _refuse_other_layers(plans: Sequence[LayerPlan], shape: CacheShape) -> None:
    if len(plans) != shape.layers:
        raise ValueError(
            f"Cache latent: the basis is for {len(plans)} layers, the model has {shape.layers}; take the "
            f"basis of this checkpoint, or calibrate one."
        )


@dataclass(frozen=True)
class LatentKind(CacheKind):
    """See `LatentFormat`."""

    def why_not(self, model: DiTTree) -> str | None:
        """A sentence if no basis can be calibrated for this model, else None."""
        return why_no_basis(model)

    def cost(self, model: DiTTree) -> CacheCost:
        """About an eighth of the dense bytes, every layer alike: coordinates for three quarters of the width,
        for a sixth of it in int8 (742 of 6144 bytes at Wan 1.3B's width)."""
        width = width_of(model)
        rank, wide = (share // PLANNED_GROUP * PLANNED_GROUP for share in (width * 3 // 4, width // 6))
        plan = LayerPlan("latent", max(PLANNED_GROUP, rank), wide)
        return latent_cost((plan,) * len(model.blocks), PLANNED_GROUP)

    def build(self, model: DiTTree, exact: Exact = NO_EXACT, source: Any = None) -> LatentFormat:
        """source: a `Basis`."""
        return LatentFormat(source, exact)


KIND = LatentKind(
    "latent",
    "in a calibrated basis, 4 to 14 times smaller, for the checkpoint it was calibrated for",
    needs="a basis of this checkpoint",
    source=Source(
        "what Calibrate Cache wrote into models/rivulet for this checkpoint", "Calibrate Cache", load_basis
    ),
)


def _tiers(plan: LayerPlan, group: int) -> Tiers:
    return Tiers(plan.wide, plan.rank - plan.wide, group)
