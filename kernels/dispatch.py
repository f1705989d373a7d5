"""Choice of an operation's implementation, with the reason: Triton where the GPU runs it, else torch.

A kernel is compared with its reference before its first use in a process, on each device and in each dtype;
one that fails, and one that raises later, is off from then on, and torch does its work.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from .out_of_memory import is_out_of_memory

CHOICES = ("auto", "reference", "triton", "offered")
DISABLE = "RIVULET_DISABLE_TRITON"  # set to 1: never Triton
_HALVES = (torch.bfloat16, torch.float16)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8)

# of an op by "triton" or "offered": "", or what is wrong with it
Check = Callable[[str, torch.device, torch.dtype, str], str]
Kernel = tuple[str, str, str, int | None]  # an op, "triton" or "offered", the type and index of a device
Operation = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Support:
    """Whether Triton kernels run on a device, and a sentence with the reason."""

    triton: bool
    why: str
    full: bool = False  # nobody knows yet: the device had no room to try one


def uses_triton(
    op: str, choice: str, *tensors: Tensor | None, obstacle: str = "", multiplies: Tensor | None = None
) -> bool:
    """Whether `op` runs its Triton kernel (True) or its reference (False) on these tensors.

    choice: "reference"; "triton", RuntimeError where the kernel cannot run; or "auto", which runs the kernel
    on a GPU that supports it, where its check passes, but leaves float32 matrix products to torch: tensor
    cores have none, and the kernels spill registers. A GPU without room to find out raises. obstacle:
    reason why the kernel cannot read this input, "" for none. multiplies: a factor of the op's matrix
    products, None without products.
    """
    if choice not in CHOICES:
        names = ", ".join(map(repr, CHOICES))
        raise ValueError(f"{op}: no implementation is called {choice!r}; choose one of {names}.")
    if choice in ("reference", "offered"):
        return False
    if choice == "auto" and tensors[0] is not None and tensors[0].is_cpu:
        return False
    if choice == "auto" and multiplies is not None and multiplies.dtype == torch.float32:
        return False
    present = [tensor for tensor in tensors if tensor is not None]
    reason = obstacle or _obstacle(present)
    if not reason:
        support = triton_support(present[0].device)
        if support.full:
            raise torch.OutOfMemoryError(support.why)
        reason = "" if support.triton else support.why
    if not reason and choice == "auto":
        reason = _fault(op, present[0].device, _computed(present if multiplies is None else [multiplies]))
    if not reason:
        return True
    if choice == "triton":
        raise RuntimeError(f"{op}: the Triton kernel cannot run: {reason} impl='auto' takes torch instead.")
    return False


def triton_support(device: torch.device) -> Support:
    """Whether Triton kernels run on the device; tested by running one, then cached and, if not, told once.

    A device without room for the test is tested the next time.
    """
    index = device.index
    if index is None and device.type == "cuda" and torch.cuda.is_available():
        index = torch.cuda.current_device()
    try:
        return _support(device.type, index, os.environ.get(DISABLE) == "1")
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return Support(False, f"{device} is out of memory, so that no Triton kernel could be tried.", True)


def check_first(check: Check) -> None:
    """Have every kernel checked by this before its first use."""
    _checks.append(check)


def offer(op: str, operation: Operation | None) -> None:
    """Give an op a host's own operation, for cards on which its kernel does not run; None: take it away.

    operation: of the op's tensors and numbers in their order, without `impl` and `out`. It is taken in half
    precision, after the check that kernels have to pass.
    """
    _offers.pop(op, None)
    if operation is not None:
        _offers[op] = operation


def offered(op: str, choice: str, x: Tensor) -> Operation | None:
    """The host's operation for these tensors, where it is to do the op's work; x: the first of them."""
    operation = _offers.get(op)
    if operation is None or choice not in ("auto", "offered"):
        return None
    if choice == "auto":
        graded = torch.is_grad_enabled() and x.requires_grad
        if graded or x.is_cpu or x.dtype not in _HALVES or torch.compiler.is_compiling():
            return None
        if _fault(op, x.device, x.dtype, "offered"):
            return None
    return _guarded(op, operation, x.device)


def disable(op: str, why: str, device: torch.device, choice: str = "triton") -> None:
    """Leave the op to torch on this device for the rest of the process; said once, in one line of the log.

    Whoever calls it in the middle of a block lets that block fail: half of it was made by the kernel.
    """
    kernel = _kernel(op, device, choice)
    if kernel not in _off:
        _off[kernel] = why
        what = "Triton kernel" if choice == "triton" else "The host's"
        message = "%s %s is off on %s, torch does its work: %s"
        logging.getLogger(__name__).warning(message, what, op, device, why)


def faults_on(device: torch.device) -> dict[str, str]:
    """Ops whose kernel is off on this device, and why; one that nobody used yet is not checked yet."""
    index = torch.empty(0, device=device).device.index
    found = {kernel: why for kernel, why in _off.items() if kernel[1:] == ("triton", device.type, index)}
    return {kernel[0]: why for kernel, why in found.items()}


def offers() -> tuple[str, ...]:
    """Ops for which a host has operations of its own, in half precision on a GPU."""
    return tuple(sorted(_offers))


def mark_checked(op: str, device: torch.device, dtype: torch.dtype, choice: str = "triton") -> None:
    """Note that the op's kernel was compared with its reference in this dtype."""
    _checked.add((_kernel(op, device, choice), dtype))


def is_interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 is set: kernels run in Python and read CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


_checks: list[Check] = []
_checked: set[tuple[Kernel, torch.dtype]] = set()
_off: dict[Kernel, str] = {}


_offers: dict[str, Operation] = {}


def _kernel(op: str, device: torch.device, choice: str) -> Kernel:
    return op, choice, device.type, device.index


def _fault(op: str, device: torch.device, dtype: torch.dtype, choice: str = "triton") -> str:
    """Reason why the op's kernel is off, "" for none; checked before its first use."""
    kernel = _kernel(op, device, choice)
    if kernel not in _off and (kernel, dtype) not in _checked:
        for check in _checks:
            if why := check(op, device, dtype, choice):
                disable(op, why, device, choice)
        mark_checked(op, device, dtype, choice)
    return _off.get(kernel, "")


def _guarded(op: str, operation: Operation, device: torch.device) -> Operation:
    """The operation, which is off once it raises; lack of memory is no fault of its own."""

    def run(*given: object) -> Tensor:
        try:
            return operation(*given)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            disable(op, f"{type(error).__name__}: {error}".splitlines()[0], device, "offered")
            raise

    return run


def _computed(tensors: list[Tensor]) -> torch.dtype:
    """The dtype of the first tensor that holds numbers and no codes."""
    return next((x.dtype for x in tensors if x.is_floating_point()), torch.float32)


@cache
def _support(kind: str, index: int | None, disabled: bool) -> Support:
    device = torch.device(kind, index) if index is not None else torch.device(kind)
    support = _find_support(device, disabled)
    wanted = kind not in ("cpu", "meta") or is_interpreted()
    if wanted and not support.triton and not disabled:
        message = "No Triton kernels on %s, torch does their work: %s"
        logging.getLogger(__name__).warning(message, device, support.why)
    return support


def _find_support(device: torch.device, disabled: bool) -> Support:
    kind = device.type
    if disabled:
        return Support(False, f"it is switched off by {DISABLE}=1.")
    if kind != "cuda" and not (kind == "cpu" and is_interpreted()):
        return Support(False, f"there are no Triton kernels for {kind}.")
    if kind == "cuda" and torch.version.hip is None:
        try:
            major, minor = torch.cuda.get_device_capability(device)
        except (AssertionError, RuntimeError) as error:  # a torch without CUDA, no driver, no such card
            return Support(False, f"torch does not reach {device}: {str(error).splitlines()[0].rstrip('.')}.")
        if major < 8:
            return Support(False, f"compute capability {major}.{minor} is below 8.0 (RTX 30 and newer).")
    return _run_probe(device)


def _run_probe(device: torch.device) -> Support:
    # a broken installation can raise anything anywhere, find_spec included
    try:
        if find_spec("triton") is None:
            package = "triton-windows" if os.name == "nt" else "triton"
            return Support(False, f"Triton is not installed (pip install {package}).")
        from ._triton._smoke import works

        if works(device):
            return Support(True, f"Triton kernels run on {device}.")
        fault = "a kernel ran and gave a wrong result"
    except Exception as error:
        if is_out_of_memory(error):
            raise
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
    return Support(False, f"Triton does not work on {device}: {fault}.")


def _obstacle(tensors: list[Tensor]) -> str:
    """Reason why no kernel can read these tensors, "" for none."""
    for tensor in tensors:
        if tensor.dtype not in _DTYPES:
            return f"it computes in float32 and does not take {tensor.dtype}."
        if tensor.device != tensors[0].device:
            return f"tensors are on {tensors[0].device} and {tensor.device}."
        if tensor.ndim and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            return "a tensor's last dimension is not contiguous."
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "it has no gradient."
    return ""
