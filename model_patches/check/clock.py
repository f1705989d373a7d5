"""Time of a check: a bound for each test and for all, asked between two pieces of work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


class OutOfTimeError(Exception):
    """A test came to its bound."""


@dataclass
class Clock:
    """Seconds that are left. `pulse` is called at every tick and may raise to end the check."""

    seconds: float  # for all tests together
    pulse: Callable[[], None] = lambda: None
    now: Callable[[], float] = time.monotonic
    _ends: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()
        self._ends = [self.started + self.seconds]

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.now() - self.started

    @property
    def left(self) -> float:
        """Seconds until the innermost bound."""
        return min(self._ends) - self.now()

    def tick(self) -> None:
        """Raises OutOfTimeError past the bound, and whatever the pulse raises."""
        self.pulse()
        if self.left <= 0:
            raise OutOfTimeError(f"not done after {self.now() - self.begun:.0f} s")

    @contextmanager
    def bounded(self, seconds: float) -> Iterator[None]:
        """Ticks inside raise after so many seconds, or when all time is out."""
        self.begun = self.now()
        self._ends.append(self.begun + seconds)
        try:
            yield
        finally:
            self._ends.pop()


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given; a processor has."""
    module = getattr(torch, device.type, None)
    if device.type != "cpu" and module is not None and hasattr(module, "synchronize"):
        module.synchronize()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


@contextmanager
def one_thread() -> Iterator[None]:
    """Small products on the processor: a second thread costs more in hand-over than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
