"""Whether an error says that a card has no room: no fault of what was at work."""

from __future__ import annotations

import torch

# what libraries say that are no torch.OutOfMemoryError; "Allocation on device": torch over cudaMallocAsync
SAYINGS = (
    "out of memory",  # drivers of CUDA, HIP and XPU, MPS; "Triton Error [CUDA]: out of memory"
    "status_alloc_failed",  # cuBLAS, cuDNN, cuSOLVER, hipBLAS
    "cufft_alloc_failed",
    "allocation on device",
    "not enough gpu video memory",  # DirectML
)
CUDA_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, hipErrorOutOfMemory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the card has no room; not one that the computer's own memory is full.

    torch.OutOfMemoryError, torch.AcceleratorError of that kind, and a RuntimeError of a driver or a library
    by what it says.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if getattr(error, "error_code", None) == CUDA_OUT_OF_MEMORY:
        return True
    said = str(error).lower()
    return any(saying in said for saying in SAYINGS)
