"""Decoding beside the making of the next block, on a stream of its own on the card."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Overlap:
    """Has a card work on a second stream while the model's goes on; without one, everything is in turns.

    Work is begun in the order in which it is asked for, and stays so on its stream. What is begun while the
    work before is not done waits for it, so the host is at most one block ahead of what it decodes.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """device: the card that decodes; None, or no card: in turns."""
        self._stream = None
        if device is not None and device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
        self._done: torch.Event | None = None

    @contextmanager
    def beside(self, used: Iterable[Tensor]) -> Iterator[None]:
        """What is asked of the card inside runs once all that was asked of it so far is done.

        used: tensors from outside that it reads; their memory is not given to others before it is done. What
        is made inside is to be read inside, in the host's memory, or after `finish`. A failure inside leaves
        what was begun to its end.
        """
        if self._stream is None:
            yield
            return
        self.finish()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        for tensor in used:
            if tensor.is_cuda:
                tensor.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            try:
                yield
            finally:
                self._done = self._stream.record_event()

    def end(self) -> None:
        """From here on everything is in turns."""
        self.finish()
        self._stream = None

    def finish(self) -> None:
        """Returns once everything that was begun is done, so that any stream may read what it made."""
        done, self._done = self._done, None
        if done is not None:
            done.synchronize()
