"""Sequences of a training side by side: steps in a row come from different ones."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Item = TypeVar("Item")


def interleave(
    begin: Callable[[torch.Generator], Iterator[Item]], lanes: int, generator: torch.Generator
) -> Iterator[Item]:
    """Items of `lanes` sequences for ever, each from one drawn at random; one at its end is begun anew."""
    sequences: list[Iterator[Item]] = [iter(()) for _ in range(lanes)]
    while True:
        lane = int(torch.randint(lanes, (), generator=generator))
        item = next(sequences[lane], None)
        if item is None:
            sequences[lane] = begin(generator)
            item = next(sequences[lane])
        yield item
