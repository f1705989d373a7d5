"""A CUDA card that is not there: its tensors have a device, a dtype and strides, and no numbers.

Torch's own fake tensors refuse what a card refuses, first of all tensors of two devices in one operation.
Entered as a context, a `Card` makes them; `torch.empty(..., device=card.device)` is then on it. What lies on
the CPU stays real: a copy from the card is zeros there, a question about its numbers is answered with zero,
or true. What it costs to ask is in `card.watch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from rivulet.kernels import dispatch
from rivulet.model_patches.attention import rope
from rivulet.tests.card import cuda
from rivulet.tests.card.attention import backend
from rivulet.tests.card.guard import why_no_card
from rivulet.tests.card.order import is_scattered, is_strided
from rivulet.tests.card.watch import (
    ATTENTION,
    FREE_TO_CARD,
    FREE_TO_HOST,
    LAUNCH,
    REPACKED,
    STRIDED,
    TO_CARD,
    TO_HOST,
    WAIT,
    Watch,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
NUMBERS = (aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default)
COPIES = (aten.clone.default, aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
METHODS = {  # of a tensor on a card, which torch's fakes lack or have in another way
    "tolist": lambda tensor: tensor.cpu().tolist(),
    "record_stream": lambda tensor, stream: None,
    "new_tensor": lambda tensor, data, dtype=None, device=None: torch.tensor(
        data, dtype=dtype or tensor.dtype, device=device or tensor.fake_device
    ),
}


class _NumberlessMode(FakeTensorMode):
    def may_turn_const(self, t: Tensor) -> bool:
        """Never: the numbers of small constants would go to the card with them, and there is none."""
        return False


class _Attention(TorchFunctionMode):
    """Answers attention on the card, before torch takes it apart for the CPU that it runs on."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention and isinstance(args[0], FakeTensor):
            return self.card.attend(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Hands every operation to the card, whose own work or the CPU's it is."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = kwargs or {}
        there = list(_fakes((*args, *kwargs.values())))
        if not there and not any(_is_card(each) for each in (*args, *kwargs.values())):
            with unset_fake_temporarily():
                return self.card.run_beside(func, args, kwargs)
        if func is not aten.rms_norm.default and func.namespace == "aten" and func._can_decompose():
            # inference mode hands them over whole; a function mode would hand them back to us
            with self, torch._C.DisableTorchFunction():
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return self.card.run(func, there, args, kwargs)


class Card:
    """Makes tensors on a fake card, or two, while it is entered."""

    device = torch.device("cuda", 0)
    other = torch.device("cuda", 1)

    def __init__(self) -> None:
        self.watch = Watch()
        self.attended: list[tuple[Tensor, Tensor, Tensor]] = []  # q, k, v of every attention on the card
        self._tensors = _NumberlessMode(allow_non_fake_inputs=True)
        self._pinned: dict[int, torch.UntypedStorage] = {}  # by address, and kept, so that none is used again
        self._entered = ExitStack()

    def __enter__(self) -> Card:
        with ExitStack() as entered:
            entered.enter_context(self._tensors)
            for name, standin in cuda.standins(self.watch).items():
                entered.enter_context(patch.object(torch.cuda, name, standin))
            for name, method in METHODS.items():
                entered.enter_context(patch.object(FakeTensor, name, method))
            entered.enter_context(_Operations(self))
            entered.enter_context(_Attention(self))
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *why: object) -> None:
        self._entered.__exit__(*why)

    def run(self, func: Any, there: list[FakeTensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The card's own work, which is not done. there: its tensors among the arguments."""
        if func in NUMBERS:
            self.watch.note(WAIT, _name(func))
            return True if there[0].dtype == torch.bool or func is aten.equal.default else _zero(there[0])
        if func in INDEXED:
            self._note_indices(args[1])
        if func in (aten._to_copy.default, aten.copy_.default):
            copied = self._copy(func, args, kwargs)
            if copied is not None:
                return copied
        # one kernel on a card
        result = torch.empty_like(there[0]) if func is aten.rms_norm.default else func(*args, **kwargs)
        if func in COPIES and is_scattered([*there, result]):
            self.watch.note(REPACKED, _name(func), result.nbytes)
        if is_strided(func, there):
            self.watch.note(STRIDED, _name(func), sum(each.nbytes for each in there))
        return result

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *_: Any, **more: Any):
        """What attention gives, written as the fused kernels write it; refused where none takes it."""
        mask = more.get("attn_mask", mask)
        self.attended.append((q, k, v))
        self.watch.note(ATTENTION, backend(q, k, v, mask), q.nbytes + k.nbytes + v.nbytes)
        return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]).transpose(1, 2)

    def launch(self, launch: Any) -> None:
        """What `Launch.run` does here: refuses what no card would run."""
        tensors = {name: each for name, each in launch.arguments.items() if isinstance(each, Tensor)}
        name = getattr(launch.kernel, "__name__", None) or launch.kernel.fn.__name__
        devices = {each.device for each in tensors.values()}
        assert len(devices) == 1, f"{name}: tensors on {sorted(map(str, devices))}"
        torn = [key for key, each in tensors.items() if each.shape[-1:] > (1,) and each.stride(-1) != 1]
        assert not torn, f"{name}: the last dimension of {', '.join(torn)} is not packed"
        first, *others = launch.grid
        assert first < 2**31 and all(each < 2**16 for each in others), f"{name}: a grid of {launch.grid}"
        self.watch.note(LAUNCH, name, sum(each.nbytes for each in tensors.values()))

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device = device) -> Tensor:
        """A tensor on the card; it stays one outside the context."""
        with self._tensors:
            return torch.empty(shape, dtype=dtype, device=device)

    def carry(self, module: nn.Module, dtype: torch.dtype, device: torch.device = device) -> None:
        """Replaces the module's parameters by fake ones on the card."""
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    there = self.empty(*value.shape, dtype=dtype, device=device)
                    part._parameters[name] = nn.Parameter(there, requires_grad=False)

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether the card may copy it while the program goes on."""
        return not isinstance(tensor, FakeTensor) and tensor.untyped_storage().data_ptr() in self._pinned

    def run_beside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The CPU's own work, which is done; memory that would be pinned is remembered."""
        if func is aten.is_pinned.default:
            return self.is_pinned(args[0])
        if func in (aten._pin_memory.default, aten.pin_memory.default):
            return args[0] if self.is_pinned(args[0]) else self._pin(args[0].clone())
        if kwargs.get("pin_memory"):
            return self._pin(func(*args, **{**kwargs, "pin_memory": False}))
        return func(*args, **kwargs)

    def _pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = storage
        return tensor

    def _copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Notes a copy between card and CPU; what comes to the CPU is zeros, or true."""
        inside = func is aten.copy_.default
        source = args[1] if inside else args[0]
        device = args[0].device if inside else torch.device(kwargs.get("device") or source.device)
        if source.device.type == device.type:
            return None
        waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if device.type == "cuda":
            pinned = self.is_pinned(source) and not waits
            self.watch.note(FREE_TO_CARD if pinned else TO_CARD, _sort(source), source.nbytes)
            return None
        strides = torch.empty_like(source).stride()
        # torch pins what it makes for a copy that is not waited for
        pinned = not waits and (not inside or self.is_pinned(args[0]))
        self.watch.note(FREE_TO_HOST if pinned else TO_HOST, _sort(source), source.nbytes)
        with unset_fake_temporarily():
            if inside:
                return args[0].fill_(args[0].dtype == torch.bool)
            dtype = kwargs.get("dtype") or source.dtype
            made = torch.empty_strided(source.shape, strides, dtype=dtype).fill_(dtype == torch.bool)
        return self._pin(made) if pinned else made

    def _note_indices(self, indices: list[Tensor | None]) -> None:
        for each in indices:
            if each is not None and not isinstance(each, FakeTensor):
                self.watch.note(TO_CARD, _sort(each), each.nbytes)


def _fakes(values: tuple[Any, ...] | list[Any]) -> Iterator[FakeTensor]:
    """Tensors on a card; asking each for its device would be an operation."""
    for value in values:
        if isinstance(value, FakeTensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _fakes(value)


def _name(func: Any) -> str:
    return func.__name__.partition(".")[0].removeprefix("_")


def _is_card(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"


def _zero(tensor: Tensor) -> float | int:
    return 0.0 if tensor.dtype.is_floating_point else 0


def _sort(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


@pytest.fixture
def card(monkeypatch) -> Iterator[Card]:
    """Returns a fake card, to be entered, on which torch does the work of the Triton kernels."""
    if reason := why_no_card():
        pytest.skip(reason)
    monkeypatch.setenv(dispatch.DISABLE, "1")
    rope.forget_tables()
    yield Card()
    rope.forget_tables()


@pytest.fixture
def triton_card(card, plain_triton, monkeypatch) -> Card:
    """Returns a fake card that takes launches of the Triton kernels, and runs none."""
    from rivulet.kernels._triton._launch import Launch

    monkeypatch.delenv(dispatch.DISABLE)
    answer = dispatch.Support(True, "the card is a fake")
    monkeypatch.setattr(dispatch, "_support", lambda kind, *_: answer if kind == "cuda" else _no_kernels)
    monkeypatch.setattr(dispatch, "_fault", lambda *_: "")
    monkeypatch.setattr(Launch, "run", lambda launch: card.launch(launch))
    return card


_no_kernels = dispatch.Support(False, "only the fake card has kernels")
