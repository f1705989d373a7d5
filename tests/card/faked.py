"""A CUDA card that is not there: its tensors have a device, a dtype and strides, and no numbers.

Torch's own fake tensors refuse what a card refuses, first of all tensors of two devices in one operation.
Entered as a context, a `Card` makes them; `torch.empty(..., device=card.device)` is then on it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.nn.functional as F
from rivulet.kernels.dispatch import DISABLE
from rivulet.model_patches.attention import rope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

# torch without CUDA does not know how to change to a card and back; there is nothing to change to
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>)
}
"""


class _NumberlessMode(FakeTensorMode):
    def may_turn_const(self, t: Tensor) -> bool:
        """Never: the numbers of small constants would go to the card with them, and there is none."""
        return False


class Card(TorchFunctionMode):
    """Makes tensors on a fake card while it is entered; where a number is needed, it is one, or true."""

    device = torch.device("cuda", 0)

    def __init__(self) -> None:
        super().__init__()
        self.attended: list[tuple[Tensor, Tensor, Tensor]] = []  # q, k, v of every attention on the card
        self._tensors = _NumberlessMode(allow_non_fake_inputs=True)

    def __enter__(self) -> Card:
        self._tensors.__enter__()
        return super().__enter__()

    def __exit__(self, *why: object) -> None:
        super().__exit__(*why)
        self._tensors.__exit__(*why)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if args and isinstance(args[0], Tensor) and args[0].is_cuda:
            if function is F.scaled_dot_product_attention:
                return self._attend(*args[:3])
            if function in (Tensor.__bool__, Tensor.item, torch.equal):
                return True if function is not Tensor.item or args[0].dtype == torch.bool else 1
        return function(*args, **(kwargs or {}))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.attended.append((q, k, v))
        assert q.device == k.device == v.device and q.dtype == k.dtype == v.dtype
        return q.new_empty(*q.shape[:-1], v.shape[-1])

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor on the card; it stays one outside the context."""
        with self:
            return torch.empty(shape, dtype=dtype, device=self.device)

    def carry(self, module: nn.Module, dtype: torch.dtype) -> None:
        """Replaces the module's parameters by fake ones on the card."""
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    there = self.empty(*value.shape, dtype=dtype)
                    part._parameters[name] = nn.Parameter(there, requires_grad=False)


@cache
def why_no_card() -> str:
    """A sentence if this torch cannot make tensors of a card that is not there, else ""; tried once."""
    if torch.backends.cuda.is_built():
        return ""
    if not sys.platform.startswith("linux") or shutil.which("g++") is None:
        return "torch has no CUDA, and without g++ on Linux its tensors cannot be faked"
    home = Path(torch.__file__).parent
    with TemporaryDirectory() as folder:
        source, built = Path(folder, "guard.cpp"), Path(folder, "guard.so")
        source.write_text(GUARD)
        paths = [f"-I{home / 'include'}", f"-L{home / 'lib'}"]
        command = ["g++", "-std=c++20", "-shared", "-fPIC", str(source), "-o", str(built), *paths, "-lc10"]
        subprocess.run(command, check=True)
        torch.ops.load_library(str(built))
    return ""


@pytest.fixture
def card(monkeypatch) -> Card:
    """Returns a fake card, to be entered, on which torch does the work of the Triton kernels."""
    if reason := why_no_card():
        pytest.skip(reason)
    monkeypatch.setenv(DISABLE, "1")
    rope.forget_tables()
    yield Card()
    rope.forget_tables()
