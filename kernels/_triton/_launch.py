"""One call of a kernel as a value: it can be run, or compiled for a card that is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Argument = Tensor | int | float | None


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel, its grid, what it is given at run time, what is fixed when it is compiled, and its shape.

    Kernels are not specialised on numbers of tokens: a window that fills compiles nothing anew.
    """

    kernel: Any
    grid: tuple[int, ...]
    given: Mapping[str, Argument]
    fixed: Mapping[str, Any]
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int | bool]:
        """How it is compiled; said in full, as the default of fused multiply-add differs between versions."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}

    def run(self) -> None:
        """Run it on the device of its tensors; a grid without programs is no work."""
        first = next(value for value in self.given.values() if isinstance(value, Tensor))
        if all(self.grid):
            # Triton launches on the current device, whichever the tensors are on
            with torch.cuda.device_of(first):
                self.kernel[self.grid](**self.given, **self.fixed, **self.options)


def strides(name: str, tensor: Tensor | None, dims: str) -> dict[str, int]:
    """Strides of the leading dimensions under the names that kernels have for them; zeros for no tensor."""
    return {f"{name}_{dim}": 0 if tensor is None else tensor.stride(i) for i, dim in enumerate(dims)}


def power_of_two(size: int, least: int = 1) -> int:
    """The smallest power of two that holds so many: blocks have such sizes."""
    return max(least, 1 << (size - 1).bit_length())
