"""One writer per video: `name.lock` beside it, held by a lock of the operating system.

The system frees the lock when its process dies, however it dies; a file that was left behind locks nothing.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

LOCKED_BYTE = 1 << 20  # behind the text, which Windows would keep from readers if it were locked
TRIES, TRY_SECONDS = 10, 0.02  # whoever only asks whether a lock is held holds it for a moment
HELD_BY_ANOTHER = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class LockedError(ValueError):
    """Another run holds the lock; the message says which."""


def lock_path(video: Path | str) -> Path:
    """Returns the path of a video's lock file."""
    return Path(video).with_suffix(".lock")


def is_locked(video: Path | str) -> bool:
    """Tells whether a writer is at work on this video, in this process or in another."""
    try:
        handle = os.open(lock_path(video), os.O_RDWR)
    except OSError:  # no such file, or one that this user may not write: then no writer of theirs either
        return False
    try:
        return not _lock(handle, lock_path(video))
    finally:
        os.close(handle)


class FileLock:
    """The lock of one video: `with FileLock(video):`; LockedError, in a sentence, where another has it."""

    def __init__(self, video: Path | str) -> None:
        self.video, self.path = Path(video), lock_path(video)
        self._handle: int | None = None

    def acquire(self) -> None:
        """Takes the lock, unless it is held, or raises LockedError; OSError in a folder that is read-only."""
        if self._handle is not None:
            return
        for attempt in range(TRIES):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                held = _lock(handle, self.path)
                # whoever had it may have deleted the file after it was opened here
                if held and _is_at(handle, self.path):
                    self._sign(handle)
                    self._handle, handle = handle, -1
                    _OPEN.add(self)
                    return
            finally:
                if handle >= 0:
                    os.close(handle)
            if attempt + 1 < TRIES:
                time.sleep(TRY_SECONDS)
        raise LockedError(
            f"Video writer: {self.video.name} is being written by {self._holder()}; wait for that run, stop "
            f"it, or choose another name."
        )

    def release(self) -> None:
        """Gives the lock back and deletes its file."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        _OPEN.discard(self)
        try:
            if os.name != "nt":  # there an open file cannot be deleted
                self.path.unlink(missing_ok=True)
        finally:
            os.close(handle)
        if os.name == "nt":
            with suppress(OSError):
                self.path.unlink()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def forget(self) -> None:
        """Closes this process's copy of a lock that its parent holds on."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def _sign(self, handle: int) -> None:
        """Writes who holds the lock, for the sentence that another run gets."""
        told = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(told).encode())

    def _holder(self) -> str:
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            pid, host, since = told["pid"], told["host"], told["since"]
        except (OSError, ValueError, KeyError, TypeError):
            return "another run"
        here = host == socket.gethostname()
        who = "this program" if here and pid == os.getpid() else "another run"
        return f"{who} (process {pid}{'' if here else f' on {host}'}, since {since})"


def _is_at(handle: int, path: Path) -> bool:
    """Whether this open file is the one at the path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


_OPEN: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_OPEN):
        lock.forget()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    # a forked child has a copy of every descriptor, and would keep the lock when this process dies
    os.register_at_fork(after_in_child=_forget_all)

if os.name == "nt":
    import msvcrt

    def _system_lock(handle: int) -> None:
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _system_lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock(handle: int, path: Path) -> bool:
    """Locks an open file; False where another holds it. True, with a line in the log, where none can be."""
    try:
        _system_lock(handle)
    except OSError as why:
        if why.errno in HELD_BY_ANOTHER:
            return False
        log.warning(
            "Video writer: the disk of %s knows no locks (%s); a second run on the same name is not noticed.",
            path.parent,
            why.strerror,
        )
    return True


@contextmanager
def hold(file: Path) -> Iterator[dict[str, Any]]:
    """Popen's options for a child that is to hold this file as long as it lives: see `is_held`."""
    if os.name == "nt":  # there an open file says so itself
        yield {}
        return
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with suppress(OSError):
            _system_lock(handle)
        yield {"pass_fds": (handle,)}
    finally:
        os.close(handle)


def is_held(file: Path) -> bool:
    """Tells whether a child that `hold` started still lives, of this process or of a dead one."""
    try:
        if os.name == "nt":
            file.rename(file)  # refused while another program has it open
            return False
        handle = os.open(file, os.O_RDWR)
    except PermissionError:
        return os.name == "nt"
    try:
        _system_lock(handle)
    except OSError as why:
        return why.errno in HELD_BY_ANOTHER
    finally:
        os.close(handle)
    return False
