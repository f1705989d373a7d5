"""A calibrated basis: the directions of a layer's input that its keys and values need, and their bits.

C channels of the model, R rank. Directions are in falling order of importance, so the first r of them are the
basis of rank r. In a whitened basis a coordinate has variance 1 on the calibration data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..arch.mla import MlaAttention
from ..arch.tree import DiTTree

KINDS = ("latent", "int8", "dense")


def why_no_basis(model: DiTTree) -> str | None:
    """A sentence for a model with VideoMLA attention, whose keys are not linear in a token, else None."""
    if not any(isinstance(block.self_attn, MlaAttention) for block in model.blocks):
        return None
    return (
        "Cache latent: this model has VideoMLA's attention, which has its own latents; no basis can be "
        "calibrated for it. Take format mla, which is as small."
    )


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """The format of one layer's tokens; every layer has its plan."""

    kind: str = "latent"  # or "int8" or "dense" for a layer that latents would hurt too much
    rank: int = 0  # of latents: stored coordinates
    wide: int = 0  # of latents: leading coordinates in int8; the others are int4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"LayerPlan: there is no kind {self.kind!r}; choose one of {', '.join(KINDS)}.")
        if self.kind == "latent" and not 0 <= self.wide <= max(1, self.rank) <= self.rank:
            raise ValueError(
                f"LayerPlan: a latent layer needs a rank of at least 1, of which the first `wide` are int8; "
                f"got rank {self.rank}, wide {self.wide}."
            )


@dataclass(frozen=True, slots=True, eq=False)
class LayerBasis:
    """x ~ mu + c @ up with c = (x - mu) @ down, where x is the modulated input of k and v."""

    mu_C: Tensor  # mean of x
    down_CR: Tensor  # P
    up_RC: Tensor  # of whitened directions V of the covariance S: S^(1/2) V, transposed; down is S^(-1/2) V


@dataclass(frozen=True, eq=False)
class Basis:
    """The bases of a model's layers, float32, and their plan.

    layers: None where the plan's kind is not "latent". provenance is written to the file unchanged:
    checkpoint hash, prompts, tokens, errors.
    """

    layers: tuple[LayerBasis | None, ...]
    plan: tuple[LayerPlan, ...]
    group: int = 32  # coordinates that share one scale
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.plan):
            raise ValueError(
                f"Basis: {len(self.layers)} layers have a basis and {len(self.plan)} a plan; both need one "
                f"record per layer of the model."
            )
        if self.group < 2 or self.group % 2:
            raise ValueError(f"Basis: a group must be an even number of coordinates, got {self.group}.")
        for index, (basis, plan) in enumerate(zip(self.layers, self.plan, strict=True)):
            if plan.kind == "latent":
                _check_layer(index, basis, plan, self.group)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all tensors, the plan and the group: equal only for the same cache, bit for bit."""
        digest = hashlib.sha256(json.dumps([self.group, [asdict(p) for p in self.plan]]).encode())
        for tensor in self.tensors():
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, layer by layer."""
        for layer in self.layers:
            if layer is not None:
                yield from (layer.mu_C, layer.down_CR, layer.up_RC)


def _check_layer(index: int, basis: LayerBasis | None, plan: LayerPlan, group: int) -> None:
    if basis is None:
        raise ValueError(
            f"Basis: layer {index} is planned as latents of rank {plan.rank} and has no basis; calibrate it, "
            f"or plan it as int8 or dense."
        )
    width = basis.mu_C.shape[-1]
    most = basis.down_CR.shape[-1]
    shapes = [tuple(t.shape) for t in (basis.mu_C, basis.down_CR, basis.up_RC)]
    if shapes != [(width,), (width, most), (most, width)]:
        got = ", ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"Basis: layer {index} needs mu [C], down [C, R] and up [R, C], got {got}; the file is "
            f"damaged or not a basis: calibrate again."
        )
    if plan.rank > most:
        raise ValueError(
            f"Basis: layer {index} is planned with rank {plan.rank}, its basis has {most} directions of a "
            f"width of {width}; take rank {most // group * group} or less, or int8 for this layer."
        )
    if plan.rank % group or plan.wide % group:
        raise ValueError(
            f"Basis: layer {index} has rank {plan.rank} with {plan.wide} wide, both must be multiples of the "
            f"group, {group}; nearest is rank {-(-plan.rank // group) * group} with "
            f"{-(-plan.wide // group) * group} wide."
        )
    if not all(bool(t.isfinite().all()) for t in (basis.mu_C, basis.down_CR, basis.up_RC)):
        raise ValueError(f"Basis: layer {index} holds NaN or infinite numbers; calibrate again.")
