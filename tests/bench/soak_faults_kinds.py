"""The faults of `soak --faults`: what strikes inside a go of a take, from outside, or once it is over."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ...model_patches.viewers.live import EndedError, LiveStream
from ...model_patches.viewers.mailbox import Message
from ...model_patches.viewers.streams import Streams
from ..full_card import SAID
from .soak_faults_child import Ending, children, left_alone
from .soak_faults_disk import Standing, cut, flip, lose_power, standing, surviving
from .soak_faults_takes import Take

BROKEN = "a fault of the soak"  # in the words of every error that is raised on purpose
PAGE_BYTES = 4096
HOLD_SECONDS = 0.3  # of an encoder that stands still, and between two looks of a slow viewer
PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Left:
    """What a go that nothing disturbs would take, about."""

    seconds: float
    operations: int
    fsyncs: int


@dataclass
class Fault:
    """One fault of one go; this class itself: none."""

    drawn: Random
    left: Left
    note: Path  # a file that is there once the fault has struck inside the child
    disk: Path | None = None  # the small disk that the take lies on
    at_seconds: float = 0.0
    struck: bool = False
    damaged: set[int] = field(default_factory=set)  # numbers of files, those of earlier faults too

    def __post_init__(self) -> None:
        self.at_seconds = self.drawn.random() * 1.05 * self.left.seconds

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Entered in the child, around all that it makes."""
        yield

    def glance(self, pid: int, seconds: float) -> None:
        """Called in the parent while the child runs."""

    def after(self, take: Take, ending: Ending) -> int:
        """Called when the child is over; returns frames that the next go may not begin before."""
        self.struck |= self.note.exists()
        self.note.unlink(missing_ok=True)
        return standing(take).committed(self.damaged)

    def strike(self) -> None:
        """Notes in the child that the fault came to its moment."""
        self.note.touch()


class AtOperations(TorchDispatchMode):
    """Counts torch's operations, and does something in place of those with these numbers."""

    def __init__(self, numbers: list[int], act: Callable[[], None]) -> None:
        """act: raises, or lets the operation be made."""
        super().__init__()
        self.due, self.act, self.operations = sorted(numbers), act, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        if self.due and self.operations > self.due[0]:
            self.due.pop(0)
            with _disable_current_modes():
                self.act()
        return func(*args, **(kwargs or {}))


class Operation(Fault):
    """An error inside a random operation of torch."""

    times = 1

    def error(self) -> BaseException:
        """What is raised there."""
        return RuntimeError(BROKEN)

    def act(self) -> None:
        """Raises it."""
        self.strike()
        raise self.error()

    @contextmanager
    def inside(self) -> Iterator[None]:
        numbers = self.drawn.sample(range(max(self.times, self.left.operations)), self.times)
        with AtOperations(numbers, self.act):
            yield


class Interrupt(Operation):
    """Ctrl+C inside a random operation of torch."""

    def error(self) -> BaseException:
        return KeyboardInterrupt(BROKEN)


class FullCardNow(Operation):
    """The card is full at a few random operations; the stream makes room and goes on."""

    times = 3

    def error(self) -> BaseException:
        return torch.OutOfMemoryError(SAID)


class NoFsync(Fault):
    """The disk fails once while a file, whichever, is told to be on it."""

    @contextmanager
    def inside(self) -> Iterator[None]:
        number, real = self.drawn.randrange(max(1, self.left.fsyncs)), os.fsync
        numbers = count()

        def fsync(file: int) -> None:
            if next(numbers) == number:
                self.strike()
                raise OSError(self.drawn.choice((errno.EIO, errno.ENOSPC)), BROKEN)
            real(file)

        os.fsync = fsync
        try:
            yield
        finally:
            os.fsync = real


class Kill(Fault):
    """kill -9 of the whole process at a random moment; its encoder sees its input end."""

    with_encoder = False
    waits = True  # until the encoder has written what it had

    def glance(self, pid: int, seconds: float) -> None:
        if self.struck or seconds < self.at_seconds:
            return
        encoders = children(pid) if self.with_encoder else []
        os.kill(pid, signal.SIGKILL)
        for each in encoders:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.struck = True

    def after(self, take: Take, ending: Ending) -> int:
        if self.waits:
            left_alone(take.folder)
        self.struck &= ending.status == -signal.SIGKILL
        return super().after(take, ending)


class KillInHaste(Kill):
    """kill -9, and the take is gone on with while its encoder may still write."""

    waits = False


class KillAll(Kill):
    """kill -9 of the process and of its encoder."""

    with_encoder = True


class Power(KillAll):
    """Power is lost: of each file there is what was told to be on disk, and some of the rest."""

    def after(self, take: Take, ending: Ending) -> int:
        super().after(take, ending)
        least = surviving(take)
        if self.struck:
            lose_power(take, self.drawn)
        return least


class CutVideo(KillAll):
    """After a kill the newest part of the video is cut at a random byte: an older snapshot must be taken."""

    def after(self, take: Take, ending: Ending) -> int:
        super().after(take, ending)
        parts = [part for part in standing(take).parts if part.stat().st_size]
        self.struck = self.struck and bool(parts)
        if self.struck:
            cut(parts[-1], self.drawn)
        return standing(take).committed(self.damaged)


class Damage(Kill):
    """After a kill the newest snapshot is damaged: the next older one must be taken."""

    def damage(self, path: Path) -> None:
        raise NotImplementedError

    def after(self, take: Take, ending: Ending) -> int:
        super().after(take, ending)
        now: Standing = standing(take)
        good = [path for path, at in now.snapshots.items() if at <= now.frames and path.stat().st_size]
        self.struck = self.struck and bool(good)
        if self.struck:
            newest = max(good, key=lambda path: now.snapshots[path])
            self.damage(newest)
            self.damaged.add(newest.stat().st_ino)
        return now.committed(self.damaged)


class CutSnapshot(Damage):
    """... cut at a random byte."""

    def damage(self, path: Path) -> None:
        cut(path, self.drawn)


class FlipSnapshot(Damage):
    """... with one bit turned."""

    def damage(self, path: Path) -> None:
        flip(path, self.drawn)


class Encoder(Fault):
    """The encoder is killed, at a random moment in which there is one."""

    def glance(self, pid: int, seconds: float) -> None:
        if self.struck or seconds < self.at_seconds:
            return
        for each in children(pid):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
                self.struck = True


class HeldEncoder(Fault):
    """The encoder stands still for a moment."""

    def glance(self, pid: int, seconds: float) -> None:
        if self.struck or seconds < self.at_seconds:
            return
        for each in children(pid):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGSTOP)
                self.struck = True
                time.sleep(HOLD_SECONDS)
                os.kill(each, signal.SIGCONT)


class FullDisk(Fault):
    """Another program fills the disk at a random moment; there is room again when the take is gone on with.

    Where no small disk can be mounted the process may write no file beyond a random length.
    """

    @contextmanager
    def inside(self) -> Iterator[None]:
        if self.disk is None:
            import resource

            most = self.drawn.randrange(4 << 10, 600 << 10)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            self.strike()
        yield

    def glance(self, pid: int, seconds: float) -> None:
        if self.disk is None or self.struck or seconds < self.at_seconds:
            return
        with open(self.disk / "ballast", "wb") as file:
            # half by half: the take writes meanwhile
            while (free := os.statvfs(self.disk).f_bavail * PAGE_BYTES) > 0:
                with suppress(OSError):
                    os.posix_fallocate(
                        file.fileno(), os.fstat(file.fileno()).st_size, max(PAGE_BYTES, free // 2)
                    )
        self.struck = True

    def after(self, take: Take, ending: Ending) -> int:
        left_alone(take.folder)
        if self.disk is not None:
            (self.disk / "ballast").unlink(missing_ok=True)
        return super().after(take, ending)


Kinds = Mapping[str, tuple[type[Fault], int]]  # and how often in a round


class SlowViewer(Fault):
    """Somebody watches who hardly reads, pauses the stream and has it go on."""

    @contextmanager
    def inside(self) -> Iterator[None]:
        add = Streams.add

        def watched(streams: Streams, live: LiveStream) -> None:
            add(streams, live)
            self.strike()
            threading.Thread(target=self.watch, args=(live,), daemon=True).start()

        with patch.object(Streams, "add", watched):
            yield

    def watch(self, live: LiveStream) -> None:
        """Asks for a segment, looks at it for long, and asks for a pause now and then."""
        for number in count(1):
            with suppress(EndedError):
                live.ask(Message("slow", 2 * number, "pause"))
                time.sleep(PAUSE_SECONDS)
                live.ask(Message("slow", 2 * number + 1, "resume"))
            live.state()
            live.segments.read(number)
            time.sleep(HOLD_SECONDS)


KINDS: Kinds = {
    "operation": (Operation, 4),
    "interrupt": (Interrupt, 3),
    "full card": (FullCardNow, 3),
    "kill": (Kill, 4),
    "kill, in haste": (KillInHaste, 3),
    "kill with encoder": (KillAll, 2),
    "power": (Power, 3),
    "cut video": (CutVideo, 2),
    "cut snapshot": (CutSnapshot, 2),
    "flipped snapshot": (FlipSnapshot, 2),
    "encoder": (Encoder, 3),
    "held encoder": (HeldEncoder, 1),
    "full disk": (FullDisk, 3),
    "fsync": (NoFsync, 2),
    "slow viewer": (SlowViewer, 1),
}


def deck(kinds: Kinds, drawn: Random) -> list[str]:
    """The kinds of a round in a random order."""
    cards = [name for name, (_, times) in kinds.items() for _ in range(times)]
    drawn.shuffle(cards)
    return cards
