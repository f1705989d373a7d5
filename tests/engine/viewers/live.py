"""Counts the bytes that a run holds and moves, operation by operation, on any device, meta included."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = ("mm", "convolution", "scaled_dot_product")


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Watch(TorchDispatchMode):
    """Live and peak bytes of storages made while it is on; bytes read and written, products apart."""

    def __init__(self):
        super().__init__()
        self.live_bytes = self.peak_bytes = self.pass_bytes = self.operand_bytes = 0
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        written = kwargs.get("out") if kwargs else None
        read = args[1:] if func.__name__.startswith("copy_") else args
        given, made = tensors((args, kwargs)), tensors(out)
        old = {tensor.untyped_storage()._cdata for tensor in given}
        fresh = [tensor for tensor in made if tensor.untyped_storage()._cdata not in old]
        writes = fresh or (made if func._schema.is_mutable else [])
        if writes:
            self._count(func, [t for t in tensors((read, kwargs)) if t is not written], writes)
        for tensor in fresh:
            self._keep(tensor.untyped_storage())
        return out

    def _count(self, func, given, writes):
        moved = sum(tensor.nbytes for tensor in (*given, *writes))
        if any(word in func.__name__ for word in PRODUCTS):
            self.operand_bytes += moved
        else:
            self.pass_bytes += moved

    def _keep(self, storage):
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())
        self.live_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _drop(self, place, count):
        self._known.discard(place)
        self.live_bytes -= count
