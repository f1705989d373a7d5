"""The machine does not go to sleep while blocks are made: `with Awake("why"):`.

On Windows the generating thread says so to the system. Elsewhere a small process of the system's own holds
the lock, and ends with this one however that ends: macOS' watches our process, the others run a command that
reads a pipe of ours, which closes when we are gone.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

from ..viewers.live import PAUSED, RUNNING

log = logging.getLogger(__name__)

WHO = "Rivulet"
REFUSED_SECONDS = 2.0  # a holder that lives for so long was not refused
END_SECONDS = 2.0  # that it gets to end before it is killed
CONTINUOUS, SYSTEM_REQUIRED = 0x80000000, 0x00000001  # of SetThreadExecutionState
WAITS = "cat"  # reads our pipe until it closes
NOT_HERE = "this system offers no way to stay awake that we know; set it so that it does not sleep by itself"


class Holder(Protocol):
    """Keeps the machine awake from `hold` to `release`; neither raises or takes long."""

    def hold(self) -> None: ...

    def release(self) -> None: ...


class Awake:
    """Holds while a stream makes blocks, not while it is paused; nothing here fails a run."""

    def __init__(self, why: str, holder: Holder | None = None) -> None:
        """why: shown by the system to whoever asks what keeps it awake. holder: None, the system's."""
        self._holder = holder or holder_for(sys.platform, why)
        self._held = False

    def __enter__(self) -> Awake:
        self.hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def follow(self, phase: str) -> None:
        """Holds or not, by the phase of a stream; for its session."""
        if phase == PAUSED:
            self.release()
        elif phase == RUNNING:
            self.hold()

    def hold(self) -> None:
        """Blocks are being made."""
        if not self._held:
            self._held = True
            self._holder.hold()

    def release(self) -> None:
        """No blocks are made for now."""
        if self._held:
            self._held = False
            self._holder.release()


def holder_for(platform: str, why: str) -> Holder:
    """What holds on a system of this name, as in `sys.platform`."""
    if platform == "win32":
        return WindowsHolder()
    if platform == "darwin":
        return ProcessHolder([("caffeinate", "-i", "-w", str(os.getpid()))])
    return ProcessHolder(
        [
            ("systemd-inhibit", "--what=sleep:idle", f"--who={WHO}", f"--why={why}", "--mode=block", WAITS),
            ("gnome-session-inhibit", "--inhibit", "suspend:idle", "--reason", why, WAITS),
            ("kde-inhibit", "--power", WAITS),
        ]
    )


class WindowsHolder:
    """The calling thread's request, which ends with the thread; to be released by the thread that holds."""

    def __init__(self, ask: Callable[[int], int] | None = None) -> None:
        """ask: SetThreadExecutionState, 0 where it is refused; None: the system's."""
        self._ask = ask or _set_thread_execution_state

    def hold(self) -> None:
        if not self._ask(CONTINUOUS | SYSTEM_REQUIRED):
            log.info("Awake: Windows does not allow it; the machine may go to sleep while blocks are made.")

    def release(self) -> None:
        self._ask(CONTINUOUS)


class ProcessHolder:
    """The first command that starts and is not refused, run as long as we hold; a thread sees to it."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._commands = commands
        self._released: threading.Event | None = None
        self._refused = False  # by all of them, and told

    def hold(self) -> None:
        if self._refused:
            return
        self._released = threading.Event()
        threading.Thread(target=self._hold, args=(self._released,), name="rivulet awake", daemon=True).start()

    def release(self) -> None:
        if self._released is not None:
            self._released.set()
            self._released = None

    def _hold(self, released: threading.Event) -> None:
        said: list[str] = []
        for command in self._commands:
            try:
                process = _start(command)
            except OSError:  # there is no such program here
                continue
            try:
                if released.wait(REFUSED_SECONDS) or process.poll() is None:
                    released.wait()
                    return
            finally:
                said += filter(None, [_end(process)])
        self._refused = True
        log.info("Awake: the machine may go to sleep while blocks are made: %s.", "; ".join(said) or NOT_HERE)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts a holder whose input closes when this process ends. Raises OSError."""
    # of its own session: a Ctrl+C in the terminal is for us alone
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> str:
    """Ends a holder, whatever it does; the first line of what it complained of."""
    assert process.stdin is not None and process.stderr is not None
    with suppress(OSError):
        process.stdin.close()
    complained = process.poll() is not None
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    said = process.stderr.read(500) if complained else b""
    process.stderr.close()
    return said.decode(errors="replace").strip().partition("\n")[0]


def _set_thread_execution_state(flags: int) -> int:
    import ctypes

    windows: Any = getattr(ctypes, "windll", None)
    try:
        return int(windows.kernel32.SetThreadExecutionState(flags))
    except (AttributeError, OSError):
        return 0
