"""The basis in which a layer's tokens are kept, from their statistics and from what keys and values need.

C channels of the model, N heads, D head width, R channels of the basis, sorted by importance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-4  # of the mean variance: directions that hardly occur must not be blown up


@dataclass(frozen=True, slots=True)
class Whitened:
    """c = (x - mean) @ down has mean 0 and unit covariance; mean + c @ up gives x back. All float64."""

    mean_C: Tensor
    down_CR: Tensor
    up_RC: Tensor
    importance_R: Tensor  # share of the weighted error of keys and values if a channel is left out; falls


def whiten(mean_C: Tensor, covariance_CC: Tensor, needs: list[Tensor]) -> Whitened:
    """The whitened joint basis at full rank, R = C.

    needs: what the tokens are used for, one [C, O] float64 matrix for each use, such as `key_need` and
    `value_need`; each counts alike. The basis is the singular one of S^(1/2) [needs], S the covariance, so
    that its first r channels are the r that serve all uses best (truncation-aware whitening as in SVD-LLM,
    arXiv 2403.07378, here for keys and values at once). Singular vectors come from the C by C product.
    """
    width = len(mean_C)
    ridge = RIDGE * covariance_CC.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    values, vectors = torch.linalg.eigh(covariance_CC + ridge * torch.eye(width).to(covariance_CC))
    values = values.clamp_min(ridge)
    half, back = (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T
    seen = [half @ need for need in needs]
    joint = sum(
        (part @ part.T / part.square().sum().clamp_min(torch.finfo(torch.float64).tiny) for part in seen),
        torch.zeros_like(half),
    )
    importance, turn = torch.linalg.eigh(joint / len(needs))
    importance, turn = importance.flip(0).clamp_min(0), turn.flip(1)
    return Whitened(mean_C, (back @ turn).contiguous(), (half @ turn).T.contiguous(), importance)


def key_need(weight_CO: Tensor, gain_O: Tensor, query_power_NP: Tensor) -> Tensor:
    """What queries see of the keys' projection, [C, O].

    gain: of the keys' norm. query_power: mean square of the queries' rotary pairs [N, D/2]; a pair turns with
    the distance between query and key, so over all distances both of its channels count alike.
    """
    seen_O = query_power_NP.sqrt().repeat_interleave(2, dim=1).flatten()
    return weight_CO * (gain_O * seen_O)


def value_need(weight_CO: Tensor, out_OC: Tensor, heads: int) -> Tensor:
    """What the output projection lets through of the values' projection, head by head, [C, O]."""
    parts = [
        values @ _root(out @ out.T)
        for values, out in zip(weight_CO.chunk(heads, 1), out_OC.chunk(heads), strict=True)
    ]
    return torch.cat(parts, 1)


def _root(gram_DD: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram_DD)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
