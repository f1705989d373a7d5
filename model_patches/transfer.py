"""Copies between the host's memory and a card's: nobody waits for them, or nothing is copied twice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor in `dtype` (None: its own) on the device, as `Tensor.to` gives it.

    From the CPU to a card it is cast first and goes through pinned memory: what runs on the card meanwhile
    goes on, and so does whoever called. The pinned bytes are torch's to reuse once the copy is done.
    """
    tensor = tensor.to(dtype or tensor.dtype)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return pinned(tensor.shape, tensor.dtype).copy_(tensor).to(device, non_blocking=True)


def pinned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """New memory of the host that a card copies from and to while the host goes on.

    Ordinary memory, for whose copies the host waits, where none can be pinned: a system may allow little, and
    says the card's words for it, with which the card is not full.
    """
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError as why:
        _tell_once(str(why).partition("\n")[0])
        return torch.empty(shape, dtype=dtype)


def landing(shape: Sequence[int], dtype: torch.dtype, source: torch.device) -> Tensor:
    """New memory of the host for numbers of that device: pinned for a card's."""
    return pinned(shape, dtype) if source.type == "cuda" else torch.empty(shape, dtype=dtype)


def to_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, its numbers side by side.

    From a card it may still be under way: whoever reads it waits for the card. What does not lie side by side
    there is waited for, so that no second copy comes about on the card.
    """
    if tensor.is_cuda and not tensor.is_contiguous():
        return tensor.cpu().contiguous()
    return landing(tensor.shape, tensor.dtype, tensor.device).copy_(tensor, non_blocking=True)


@cache
def _tell_once(why: str) -> None:
    logging.getLogger(__name__).warning("Copies to and from the card are waited for, none is pinned: %s", why)


def copy_in_pieces(into: Tensor, source: Tensor, dim: int) -> None:
    """into.copy_(source) in one piece for each place in the dimensions before `dim`; nobody waits for pinned
    memory.

    To or from a card torch first lays a part of a buffer side by side, in a copy on the card. A piece that
    lies in one stretch on both sides needs none.
    """
    for place in product(*map(range, into.shape[:dim])):
        into[place].copy_(source[place], non_blocking=True)
