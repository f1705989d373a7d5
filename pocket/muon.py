"""Muon, an optimizer for matrices: momentum whose directions are all made equally large.

As published (Jordan et al. 2024, kellerjordan.github.io/posts/muon) and in torch since 2.9, which it agrees
with; here for every torch, and in float32 where a device has no fast bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .half_products import half_products

QUINTIC = (3.4445, -4.7750, 2.0315)  # of the polynomial that pulls all singular values towards 1
ITERATIONS = 5
LEAST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal; a matrix [A, B] moves by lr * sqrt(max(1, A / B)) of it."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        """Raises ValueError for parameters that are no matrices."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.ndim != 2:
                    raise ValueError(f"Muon: takes matrices, got a parameter of shape {tuple(matrix.shape)}.")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every matrix that has a gradient. closure: none, gradients are there."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                step = orthogonal(matrix.grad.lerp(average, momentum))
                matrix.mul_(1 - lr * group["weight_decay"])
                matrix.add_(
                    step.to(matrix.dtype), alpha=-lr * math.sqrt(max(1, matrix.shape[0] / matrix.shape[1]))
                )


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix [A, B] with singular values between some 0.7 and 1.2, by Newton and Schulz's iteration."""
    a, b, c = QUINTIC
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=LEAST_NORM)
    with half_products(matrix.device):
        for _ in range(ITERATIONS):
            gram = wide @ wide.T
            wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
