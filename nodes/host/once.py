"""Self-checks of the host's VAEs: once for the same layers in a process, not in every run of a graph."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from torch import nn

_PASSED: WeakKeyDictionary[nn.Module, set[type]] = WeakKeyDictionary()


def check_once(model: nn.Module, kind: type, check: Callable[[], None]) -> None:
    """Runs the check of a decoder or encoder of this kind, unless these layers have passed it before."""
    passed = _PASSED.setdefault(model, set())
    if kind not in passed:
        check()
        passed.add(kind)
