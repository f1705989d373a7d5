"""Runs what the host does on a card that is not there, and counts copies to it and waits for it."""

from collections import Counter, defaultdict

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class Watch(TorchDispatchMode):
    """Entered after a `Card`, so that real tensors of the host become fake ones, too."""

    def __init__(self, card) -> None:
        super().__init__()
        self.copied: Counter[int] = Counter()  # to the card, by their last size
        self.compared = 0  # tensors on the card, with the result read
        self.made: defaultdict[torch.dtype, set[str]] = defaultdict(
            set
        )  # operations by their result on the card
        self.devices: set[torch.device] = set()  # of what was made on any card
        self._tensors = card._tensors

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = next((each for each in args if isinstance(each, Tensor)), None)
        on_card = first is not None and first.is_cuda
        if function.namespace == "aten" and function._can_decompose():
            # in inference mode a composite operation comes whole
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if function is aten.equal.default and on_card:
            self.compared += 1
            return True
        if function is aten._local_scalar_dense.default:
            return True if first.dtype == torch.bool else 1
        there = kwargs.get("device")
        if function is aten._to_copy.default and not on_card and there is not None and there.type == "cuda":
            self.copied[first.shape[-1] if first.ndim else 0] += 1
        if "lift_fresh" not in str(function):
            args = tuple(self._faked(each) for each in args)
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_cuda:
            self.made[result.dtype].add(str(function))
            self.devices.add(result.device)
        return result

    def _faked(self, value):
        real = isinstance(value, Tensor) and not isinstance(value, FakeTensor)
        return self._tensors.from_tensor(value) if real else value
