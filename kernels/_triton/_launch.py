"""One kernel call as a value, to run, or to compile for a GPU that is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..dispatch import disable
from ..out_of_memory import is_out_of_memory

Argument = Tensor | int | float | None


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with its grid, run-time arguments, compile-time constants, warps and pipeline stages.

    op: whose kernel it is, by the name under which its implementation is chosen. Kernels are not specialised
    on numbers of tokens, nor on the places of what a token has less of than 16 bytes (scales, 1/rms): neither
    a growing window nor an odd picture size compiles anything again.
    """

    op: str
    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Argument]
    constants: Mapping[str, Any]
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int | bool]:
        """Compiler options; explicit, since Triton versions differ in the default of enable_fp_fusion."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}

    def run(self) -> None:
        """Run the kernel on the device of its tensors; an empty grid does nothing.

        What it raises passes, and the op is torch's from then on, unless memory was what it lacked.
        """
        first = next(value for value in self.arguments.values() if isinstance(value, Tensor))
        if not all(self.grid):
            return
        try:
            # Triton launches on the current device, whichever the tensors are on
            with torch.cuda.device_of(first):
                self.kernel[self.grid](**self.arguments, **self.constants, **self.options)
        except Exception as error:
            if not is_out_of_memory(error):
                disable(self.op, f"{type(error).__name__}: {error}".splitlines()[0], first.device)
            raise


def strides(name: str, tensor: Tensor | None, dims: str) -> dict[str, int]:
    """Strides of the leading dimensions by their names in kernels; zeros without a tensor."""
    return {f"{name}_{dim}": 0 if tensor is None else tensor.stride(i) for i, dim in enumerate(dims)}


def power_of_two(size: int, least: int = 1) -> int:
    """The smallest power of two from `size` and `least` on, as blocks need."""
    return max(least, 1 << (size - 1).bit_length())
