"""Which implementation of an operation runs, and why: Triton on a card that runs it, else torch."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

CHOICES = ("auto", "reference", "triton")
DISABLE = "RIVULET_DISABLE_TRITON"  # set to 1: never Triton
_TAKEN = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8)


@dataclass(frozen=True, slots=True)
class Support:
    """Whether Triton kernels run on a device, and a sentence about it for a log or a report."""

    triton: bool
    why: str


def uses_triton(
    op: str, wanted: str, *tensors: Tensor | None, obstacle: str = "", multiplies: Tensor | None = None
) -> bool:
    """Whether the kernel runs; else the reference does. obstacle: why the kernel cannot take this input.

    "auto" takes the kernel where it can, on a GPU only, and leaves products of float32 to torch: no tensor
    core makes them, and kernels that do spill their registers. multiplies: a factor of the op's products.
    "triton" refuses where the kernel cannot run.
    """
    if wanted not in CHOICES:
        names = ", ".join(map(repr, CHOICES))
        raise ValueError(f"{op}: no implementation is called {wanted!r}; there are {names}.")
    if wanted == "reference" or (wanted == "auto" and tensors[0] is not None and tensors[0].is_cpu):
        return False
    if wanted == "auto" and multiplies is not None and multiplies.dtype == torch.float32:
        return False
    present = [tensor for tensor in tensors if tensor is not None]
    reason = obstacle or _obstacle(present)
    if not reason:
        support = triton_support(present[0].device)
        if support.triton:
            return True
        reason = support.why
    if wanted == "triton":
        raise RuntimeError(f"{op}: the Triton kernel cannot run: {reason} impl='auto' takes torch then.")
    return False


def triton_support(device: torch.device) -> Support:
    """Whether Triton kernels run on the device: found out once by running one."""
    return _support(device.type, device.index, os.environ.get(DISABLE) == "1")


def interpreted() -> bool:
    """Whether Triton was told to interpret kernels in Python, which lets them read CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _support(kind: str, index: int | None, disabled: bool) -> Support:
    device = torch.device(kind, index) if index is not None else torch.device(kind)
    if disabled:
        return Support(False, f"it is switched off by {DISABLE}=1.")
    if kind != "cuda" and not (kind == "cpu" and interpreted()):
        return Support(False, f"there are no Triton kernels for {kind}.")
    if kind == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return Support(False, f"compute capability {major}.{minor} is below 8.0 (RTX 30 and newer).")
    return _tried(device)


def _tried(device: torch.device) -> Support:
    # a broken installation can raise anything anywhere, find_spec included; torch does everything then
    try:
        if find_spec("triton") is None:
            package = "triton-windows" if os.name == "nt" else "triton"
            return Support(False, f"Triton is not installed (pip install {package}).")
        from ._triton._smoke import works

        if works(device):
            return Support(True, f"Triton kernels run on {device}.")
        fault = "a kernel ran and gave a wrong result"
    except Exception as error:
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
    logging.getLogger(__name__).warning("Triton does not work on %s, torch does its work: %s", device, fault)
    return Support(False, f"Triton does not work on {device}: {fault}.")


def _obstacle(tensors: list[Tensor]) -> str:
    """Why no kernel takes these tensors, "" if one may."""
    for tensor in tensors:
        if tensor.dtype not in _TAKEN:
            return f"it computes in float32 and does not take {tensor.dtype}."
        if tensor.device != tensors[0].device:
            return f"tensors are on {tensors[0].device} and {tensor.device}."
        if tensor.ndim and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            return "a tensor's last dimension is not contiguous."
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "it has no gradient."
    return ""
