"""A minimal kernel that tests whether this machine compiles and runs Triton."""

import torch
import triton
import triton.language as tl


@triton.jit
def _line(X, Y, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    tl.store(Y + at, 2.0 * tl.load(X + at) + 1.0)


def works(device: torch.device) -> bool:
    """Whether a kernel runs on this device and returns the right result."""
    x = torch.arange(128, dtype=torch.float32, device=device)
    y = torch.full_like(x, torch.nan)
    with torch.cuda.device_of(x):
        _line[(1,)](x, y, COUNT=128)
    return bool(torch.equal(y, 2 * x + 1))
