"""Operators, bytes moved and bytes alive on a card that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from rivulet.kernels import dispatch
from rivulet.kernels._triton._launch import Launch
from rivulet.model_patches.attention import rope
from rivulet.tests.card.faked import Card
from rivulet.tests.engine.viewers.live import Watch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

PRODUCTS = ("mm", "conv", "linear", "bmm")


class CardCount(Watch):
    """Entered after the `Card`: counts what runs on it, composite operations whole, as a card runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0  # that start at least one kernel; attention and Triton's are the card's to count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if not any(issubclass(each, FakeTensor) for each in types) and (
            device is None or torch.device(device).type != "cuda"
        ):
            return func(*args, **kwargs)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def start(self) -> None:
        """Begins to count anew; what is alive stays."""
        self.operators = self.pass_bytes = self.operand_bytes = 0
        self.peak_bytes = self.live_bytes

    def _count(self, func: Any, given: list[Tensor], writes: list[Tensor]) -> None:
        name = func.__name__.partition(".")[0]
        if "empty" in name:
            return
        self.operators += 1
        moved = sum(tensor.nbytes for tensor in (*given, *writes))
        if any(word in name for word in PRODUCTS):
            self.operand_bytes += moved
        else:
            self.pass_bytes += moved


@contextmanager
def card_with_kernels() -> Iterator[Card]:
    """An entered card that takes launches of the Triton kernels, and runs none."""
    card, none = Card(), dispatch.Support(False, "only the fake card has kernels")
    support = dispatch.Support(True, "the card is a fake")
    rope.forget_tables()
    with (
        patch.object(dispatch, "_support", lambda kind, *_: support if kind == "cuda" else none),
        patch.object(dispatch, "_fault", lambda *_: ""),
        patch.object(Launch, "run", lambda launch: card.launch(launch)),
        card,
    ):
        yield card
    rope.forget_tables()
